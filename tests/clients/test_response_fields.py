"""Fields of forwarded responses that a proxy must keep or add."""

import asyncio

import pytest

from tests.support.http.raw_ends import Ends
from tests.support.stage import Stage, StartStage, problem, status

GET = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n"


async def answered(stage: StartStage, ends: Ends, reply: bytes, **settings: str) -> bytes:
    """The client's response to one that the API sends."""
    here: Stage = await stage(upstream=ends.url, **settings)
    call = asyncio.ensure_future(here.call("GET", "/x"))
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(reply)
    return await call


async def test_must_upgrade_426_keeps_its_upgrade_field(stage: StartStage, ends: Ends) -> None:
    answer = await answered(
        stage, ends,
        b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade, X-Hop\r\nUpgrade: websocket\r\n"
        b"X-Hop: 1\r\nContent-Length: 0\r\n\r\n",
    )  # fmt: skip
    assert status(answer) == 426
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in answer
    assert b"X-Hop" not in answer


async def test_upgrade_is_dropped_from_other_responses(stage: StartStage, ends: Ends) -> None:
    answer = await answered(
        stage, ends,
        b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
    )  # fmt: skip
    assert status(answer) == 200
    assert b"pgrade" not in answer


@pytest.mark.parametrize("date", [b"", b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"])
async def test_a_response_has_one_date(stage: StartStage, ends: Ends, date: bytes) -> None:
    reply = b"HTTP/1.1 200 OK\r\n" + date + b"Content-Length: 0\r\n\r\n"
    answer = await answered(stage, ends, reply)
    assert answer.count(b"\r\nDate: ") == 1
    assert date in answer


async def test_response_head_40k_is_relayed(stage: StartStage, ends: Ends) -> None:
    reply = b"HTTP/1.1 200 OK\r\nX-Big: " + b"a" * 40_000 + b"\r\nContent-Length: 0\r\n\r\n"
    assert b"a" * 40_000 in await answered(stage, ends, reply)


async def test_the_size_of_a_response_head_has_its_own_bound(stage: StartStage, ends: Ends) -> None:
    reply = b"HTTP/1.1 200 OK\r\nX-Big: " + b"a" * 2_000 + b"\r\nContent-Length: 0\r\n\r\n"
    answer = await answered(stage, ends, reply, max_response_header_bytes="1024")
    assert problem(answer)["status"] == 502


@pytest.mark.parametrize("http10", [False, True], ids=["HTTP/1.1", "HTTP/1.0"])
async def test_trailers_announcement_is_relayed_with_the_trailers(
    stage: StartStage, ends: Ends, http10: bool
) -> None:
    here = await stage(upstream=ends.url)
    client = await ends.client(here)
    await client.send(GET.replace(b"/1.1", b"/1.0") if http10 else GET)
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum, Set-Cookie\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Sum: 42\r\nSet-Cookie: a=1\r\n\r\n"
    )
    head = await client.head()
    assert (b"\r\nTrailer: X-Sum\r\n" in head) != http10
    assert b"Set-Cookie" not in head
    body = b"ok" if http10 else b"2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n"
    await client.get(body)
