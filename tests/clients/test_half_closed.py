"""Clients that half-close their connection early."""

import pytest

from tests.support.http.raw_ends import Ends, calls, empty
from tests.support.stage import Stage, StartStage

HEAD = b"POST /%b HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n"
GET = b"GET /%b HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


def ok(body: bytes) -> bytes:
    return OK % (len(body), body)


@pytest.fixture
async def here(stage: StartStage, ends: Ends) -> Stage:
    return await stage(upstream=ends.url, half_close_timeout_s="20")


async def test_a_complete_request_is_answered_after_the_half_close(here: Stage, ends: Ends) -> None:
    client = await ends.client(here)
    await client.send(HEAD % b"up" + b"Content-Length: 4\r\n\r\nbody")
    client.half_close()
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.get(b"body")
    await upstream.send(OK % (11, b"first "))
    await client.head()
    await client.get(b"first ")
    await upstream.send(b"later")
    assert await client.rest() == b"later"
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"]) == (200, "ok")


async def test_pipelined_requests_are_answered_after_the_half_close(
    here: Stage, ends: Ends
) -> None:
    client = await ends.client(here)
    await client.send(GET % b"1" + GET % b"2" + GET % b"3")
    client.half_close()
    upstream = await ends.upstream()
    for number in (b"1", b"2", b"3"):
        assert (await upstream.head()).startswith(b"GET /%b " % number)
        await upstream.send(ok(number))
        assert (await client.answer()).endswith(number)
    assert await client.rest() == b""
    await empty(here)
    assert len(await calls(here)) == 3


async def test_the_wait_for_a_half_closed_client_is_short(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url, half_close_timeout_s="0.3")
    client = await ends.client(here)
    await client.send(GET % b"slow")
    client.half_close()
    upstream = await ends.upstream()
    await upstream.head()
    assert await client.rest() == b""
    assert await upstream.rest() == b""  # the API's connection is closed
    await empty(here)
    (event,) = await calls(here)
    assert event["reason"] == "client_gone"


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 900000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"]
)
async def test_I6_an_incomplete_request_is_never_completed(
    here: Stage, ends: Ends, framing: bytes
) -> None:
    client = await ends.client(here)
    await client.send(HEAD % b"up" + framing + b"4\r\nbody")
    upstream = await ends.upstream()
    await upstream.head()
    client.half_close()
    assert not (await upstream.rest()).endswith(b"0\r\n\r\n")
    await client.rest()
    await empty(here)
    (event,) = await calls(here)
    assert event["reason"] == "client_gone"


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_cancel_before_answer_a_client_that_closes_cancels_its_request(
    stage: StartStage, ends: Ends, reset: bool
) -> None:
    here = await stage(upstream=ends.url)
    client = await ends.client(here)
    await client.send(GET % b"slow")
    upstream = await ends.upstream()
    await upstream.head()
    client.reset() if reset else client.half_close()
    assert await upstream.rest() == b""  # long before any timeout
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"]) == (499, "client_gone")


async def test_a_client_that_closes_during_its_response_cancels_it(
    stage: StartStage, ends: Ends
) -> None:
    here = await stage(upstream=ends.url)
    client = await ends.client(here)
    await client.send(GET % b"stream")
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(OK % (11, b"first "))
    await client.head()
    await client.get(b"first ")
    client.half_close()
    assert await upstream.rest() == b""
    await client.rest()
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"]) == (200, "client_gone")


async def test_a_pipelining_client_that_closes_cancels_its_request(
    stage: StartStage, ends: Ends
) -> None:
    """Its socket is not read: the sidecar looks at it."""
    here = await stage(upstream=ends.url)
    client = await ends.client(here)
    await client.send(GET % b"slow" + GET % b"2" + GET % b"3" + GET % b"4")
    upstream = await ends.upstream()
    await upstream.head()
    client.half_close()
    assert await upstream.rest() == b""
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"]) == (499, "client_gone")


async def test_half_closer_slow_answer_a_half_closed_client_is_served_by_setting(
    here: Stage, ends: Ends
) -> None:
    client = await ends.client(here)
    await client.send(GET % b"slow")
    client.half_close()
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(ok(b"late"))
    assert (await client.answer()).endswith(b"late")
    assert await client.rest() == b""
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"]) == (200, "ok")


async def test_an_incomplete_head_is_not_a_request(here: Stage, ends: Ends) -> None:
    client = await ends.client(here)
    await client.send(HEAD % b"up")
    client.half_close()
    assert await client.rest() == b""
    await empty(here)
    assert await calls(here) == []
    assert ends.unanswered == 0
