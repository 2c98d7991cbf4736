"""Slow and broken clients: each ends with a timeout or an error that frees its resources."""

import asyncio

import pytest

from tests.support.http.raw_ends import Ends, bounded, calls, empty
from tests.support.stage import Stage, StartStage, status

HEAD = b"POST /upload HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = HEAD + b"Content-Length: 100000\r\n\r\n"
SHORT = {"header_timeout_s": "0.4", "body_timeout_s": "0.4"}


@pytest.fixture
async def slow(stage: StartStage, ends: Ends) -> Stage:
    here = await stage(upstream=ends.url, **SHORT)
    return bounded(here, min_rate=10_000, linger=0.2)


async def test_an_incomplete_head_is_answered_with_408(slow: Stage, ends: Ends) -> None:
    client = await ends.client(slow)
    await client.send(HEAD)
    assert status(await client.rest()) == 408
    await empty(slow)
    assert await calls(slow) == []
    assert ends.unanswered == 0


async def test_a_silent_connection_is_closed(slow: Stage, ends: Ends) -> None:
    client = await ends.client(slow)
    assert await client.rest() == b""
    await empty(slow)


async def test_the_timeout_of_a_head_counts_from_its_first_byte(slow: Stage, ends: Ends) -> None:
    client = await ends.client(slow)
    answer = await client.dribble(b"GET / HTTP/1.1\r\nHost: api.test\r\nX-Filler: " + b"x" * 2000)
    assert answer == b"" or status(answer) == 408
    await empty(slow)
    assert await calls(slow) == []


async def test_the_timeout_of_the_second_head_counts_from_its_first_byte(
    slow: Stage, ends: Ends
) -> None:
    client = await ends.client(slow)
    await client.send(b"GET / HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n\r\n")
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert status(await client.answer()) == 200
    answer = await client.dribble(b"GET / HTTP/1.1\r\nHost: api.test\r\nX-Filler: " + b"x" * 2000)
    assert answer == b"" or status(answer) == 408
    await empty(slow)


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(LENGTH, id="nothing of the body"),
        pytest.param(LENGTH + b"some", id="a stall in the body"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n", id="a stall between chunks"),
        pytest.param(CHUNKED + b"ffffff\r\nhello", id="a chunk that never ends"),
        pytest.param(CHUNKED + b"5;x=", id="a chunk extension that never ends"),
        pytest.param(CHUNKED + b"0\r\nX-Trailer: ", id="trailers that never end"),
    ],
)
@pytest.mark.parametrize("dribbled", [False, True], ids=["silent", "dribbled"])
async def test_a_stalled_body_is_answered_with_408_and_recorded(
    slow: Stage, ends: Ends, begun: bytes, dribbled: bool
) -> None:
    client = await ends.client(slow)
    await client.send(begun)
    upstream = await ends.upstream()
    assert b"0\r\n\r\n" not in await upstream.head()
    answer = await (client.dribble(b"a" * 2000) if dribbled else client.rest())
    # Bytes sent in place of a chunk size are at last invalid: 400.
    expected = {400, 408} if dribbled and begun.endswith(b"hello\r\n") else {408}
    if (
        answer or not dribbled
    ):  # a client that still sends may be reset before it has read the response
        assert status(answer) in expected
    assert not (await upstream.rest()).endswith(b"0\r\n\r\n")  # the upstream never sees a false end
    await empty(slow)
    (event,) = await calls(slow)
    assert event["status"] in expected
    assert event["reason"] == "client_gone"


async def test_an_error_in_a_later_segment_ends_the_exchange(slow: Stage, ends: Ends) -> None:
    client = await ends.client(slow)
    await client.send(CHUNKED + b"5\r\nhello\r\n")
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.get(b"5\r\nhello\r\n")
    await client.send(b"not a size\r\n")
    assert status(await client.rest()) == 400
    assert await upstream.rest() == b""
    await empty(slow)
    (event,) = await calls(slow)
    assert (event["status"], event["reason"], event["bytes_in"]) == (400, "client_gone", 5)


async def test_an_error_in_a_later_segment_resets_a_started_response(
    slow: Stage, ends: Ends
) -> None:
    client = await ends.client(slow)
    await client.send(CHUNKED + b"5\r\nhello\r\n")
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
    await client.head()
    await client.get(b"begun")
    await client.send(b"not a size\r\n")
    assert await client.rest() == b""
    assert client.was_reset
    await upstream.rest()
    await empty(slow)
    (event,) = await calls(slow)
    assert (event["status"], event["reason"]) == (200, "client_gone")


async def test_a_client_that_leaves_during_its_body_frees_everything(
    slow: Stage, ends: Ends
) -> None:
    client = await ends.client(slow)
    await client.send(LENGTH + b"some")
    upstream = await ends.upstream()
    await upstream.head()
    client.abort()
    await upstream.rest()
    await empty(slow)
    (event,) = await calls(slow)
    assert (event["reason"], event["bytes_in"]) == ("client_gone", 4)


async def test_an_upload_that_waits_for_a_slow_upstream_does_not_time_out(
    stage: StartStage, ends: Ends
) -> None:
    here = bounded(await stage(upstream=ends.url, **SHORT), min_rate=1)
    client = await ends.client(here)
    size = 8_000_000
    await client.send(HEAD + b"Content-Length: %d\r\n\r\n" % size)
    upstream = await ends.upstream()
    await upstream.head()
    sending = asyncio.ensure_future(client.send(b"x" * size))
    other = await ends.client(here)  # the timeout of a slow client has passed
    await other.rest()
    async with asyncio.timeout(30):
        await upstream.reader.readexactly(size)
    await sending
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert status(await client.answer()) == 200


async def test_a_refused_body_that_stalls_frees_the_connection(slow: Stage, ends: Ends) -> None:
    client = await ends.client(slow)
    await client.send(b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000\r\n\r\n")
    assert status(await client.answer()) == 401
    await client.rest()
    await empty(slow)
    assert await calls(slow) == []


async def test_a_response_slower_than_the_header_timeout_arrives(slow: Stage, ends: Ends) -> None:
    client = await ends.client(slow)
    await client.send(b"GET / HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n\r\n")
    upstream = await ends.upstream()
    await upstream.head()
    other = await ends.client(slow)  # closed by the header timeout, which has passed
    await other.rest()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert status(await client.answer()) == 200
