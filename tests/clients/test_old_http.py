"""HTTP/1.0 clients, with and without keep-alive."""

import pytest

from tests.support.http.raw_ends import End, Ends, calls
from tests.support.stage import Stage, StartStage

CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"
ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    "chunked": b"HTTP/1.1 200 OK\r\n" + CHUNKED,
}


@pytest.fixture
async def here(stage: StartStage, ends: Ends) -> Stage:
    return await stage(upstream=ends.url)


async def ask(client: End, *fields: bytes) -> None:
    lines = [b"GET /old HTTP/1.0", b"X-Api-Key: acme", *fields, b"", b""]
    await client.send(b"\r\n".join(lines))


@pytest.mark.parametrize("framed", ANSWERS)
async def test_without_keep_alive_a_response_ends_with_the_connection(
    here: Stage, ends: Ends, framed: str
) -> None:
    client = await ends.client(here)
    await ask(client)
    upstream = await ends.upstream()
    assert (await upstream.head()).startswith(b"GET /old HTTP/1.1\r\n")
    await upstream.send(ANSWERS[framed])
    head = await client.head()
    assert b"\r\nConnection: close\r\n" in head
    assert b"Transfer-Encoding" not in head
    assert await client.rest() == b"hello world"
    (event,) = await calls(here)
    assert (event["reason"], event["bytes_out"]) == ("ok", 11)


async def test_with_keep_alive_the_connection_serves_further_requests(
    here: Stage, ends: Ends
) -> None:
    client = await ends.client(here)
    await ask(client, b"Connection: keep-alive")
    upstream = await ends.upstream()
    for last in (False, True):
        assert b"onnection" not in await upstream.head()
        await upstream.send(ANSWERS["length"])
        answer = await client.answer()
        assert answer.endswith(b"hello world")
        assert (b"\r\nConnection: close\r\n" in answer) == last
        assert (b"\r\nConnection: keep-alive\r\n" in answer) != last
        if not last:
            await ask(client)
    assert await client.rest() == b""


async def test_with_keep_alive_a_response_without_a_length_ends_with_the_connection(
    here: Stage, ends: Ends
) -> None:
    client = await ends.client(here)
    await ask(client, b"Connection: keep-alive")
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(ANSWERS["chunked"])
    assert b"\r\nConnection: close\r\n" in await client.head()
    assert await client.rest() == b"hello world"


async def test_an_http10_client_gets_no_interim_response(here: Stage, ends: Ends) -> None:
    client = await ends.client(here)
    await ask(client, b"Host: api.test", b"Expect: 100-continue")
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ANSWERS["length"])
    assert (await client.answer()).startswith(b"HTTP/1.1 200 OK\r\n")
