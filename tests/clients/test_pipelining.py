"""Pipelined requests get their responses in order."""

import json

import pytest

from tests.support.http.raw_ends import End, Ends, calls, empty
from tests.support.stage import Stage, StartStage, status

GET = b"GET /%b HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: %b\r\n\r\n"
PUT = b"PUT /%b HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\nTransfer-Encoding: chunked\r\n\r\n"


def get(path: bytes, key: bytes = b"acme") -> bytes:
    return GET % (path, key)


@pytest.fixture
async def here(stage: StartStage, ends: Ends) -> Stage:
    return await stage(upstream=ends.url)


async def serve(upstream: End, path: bytes) -> None:
    """Check that the next request is for this path, and send a response that names it."""
    assert (await upstream.head()).split()[1] == path
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


async def test_a_slow_response_delays_the_ones_after_it(here: Stage, ends: Ends) -> None:
    client = await ends.client(here)
    await client.send(b"".join(get(b"%d" % number) for number in range(20)))
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nslow\r\n")
    await client.head()
    await client.get(b"4\r\nslow\r\n")
    await upstream.send(b"3\r\nend\r\n0\r\n\r\n")
    await client.get(b"3\r\nend\r\n0\r\n\r\n")
    for number in range(1, 20):
        await serve(upstream, b"/%d" % number)
    for number in range(1, 20):
        assert (await client.answer()).endswith(b"\r\n\r\n/%d" % number)
    assert ends.unanswered == 0  # one connection to the API was enough
    assert len(await calls(here)) == 20


async def test_a_refusal_does_not_overtake_an_earlier_response(here: Stage, ends: Ends) -> None:
    client = await ends.client(here)
    await client.send(
        get(b"first") + get(b"bulk/1") + get(b"x", b"nobody") + get(b"-/usage") + get(b"last")
    )
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
    await client.head()
    await client.get(b"first")
    await upstream.send(b" half")
    await client.get(b" half")
    for expected in (403, 401, 404):
        answer = await client.answer()
        assert status(answer) == json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == expected
    await serve(upstream, b"/last")
    assert (await client.answer()).endswith(b"/last")
    assert [event["status"] for event in await calls(here)] == [200, 200]


async def test_bodies_of_pipelined_requests_stay_with_their_requests(
    here: Stage, ends: Ends
) -> None:
    client = await ends.client(here)
    await client.send(
        PUT % b"a" + b"3\r\naaa\r\n0\r\n\r\n" + get(b"b") + PUT % b"c" + b"3\r\nccc\r\n"
    )
    upstream = await ends.upstream()
    assert (await upstream.head()).startswith(b"PUT /a ")
    await upstream.get(b"3\r\naaa\r\n0\r\n\r\n")
    await upstream.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert status(await client.head()) == 204
    await serve(upstream, b"/b")
    assert (await client.answer()).endswith(b"/b")
    assert (await upstream.head()).startswith(b"PUT /c ")
    await upstream.get(b"3\r\nccc\r\n")
    await client.send(b"0\r\n\r\n")
    await upstream.get(b"0\r\n\r\n")
    await upstream.send(b"HTTP/1.1 304 Not Modified\r\n\r\n")
    assert status(await client.head()) == 304
    assert [event["bytes_in"] for event in await calls(here)] == [3, 0, 3]


async def test_a_response_that_closes_the_connection_drops_later_requests(
    here: Stage, ends: Ends
) -> None:
    client = await ends.client(here)
    last = b"GET /last HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nConnection: close\r\n\r\n"
    await client.send(get(b"first") + last + get(b"never"))
    upstream = await ends.upstream()
    await serve(upstream, b"/first")
    assert (await client.answer()).endswith(b"/first")
    await serve(upstream, b"/last")
    answer = await client.answer()
    assert b"\r\nConnection: close\r\n" in answer
    assert await client.rest() == b""
    await empty(here)
    assert len(await calls(here)) == 2
