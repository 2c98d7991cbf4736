"""The websockets client through the sidecar, to two real servers."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import websockets
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from tests.support.http.raw_ends import Ends, calls, empty
from tests.support.http.websocket_ends import (
    FAREWELL,
    GREETING,
    PROTOCOL,
    Echo,
    connected,
    starlette_echo,
    websockets_echo,
)
from tests.support.processes import until
from tests.support.stage import Stage, StartStage

LARGE = random.Random(5).randbytes(5_000_000)


@pytest.fixture(params=[websockets_echo, starlette_echo], ids=["websockets", "starlette"])
async def echo(request: pytest.FixtureRequest) -> AsyncIterator[Echo]:
    start: Callable[[], AbstractAsyncContextManager[Echo]] = request.param
    async with start() as started:
        yield started


@pytest.fixture
async def here(stage: StartStage, echo: Echo) -> Stage:
    return await stage(upstream=echo.url)


async def test_I6_text_and_binary_pass_both_ways(here: Stage) -> None:
    async with connected(here) as ws:
        assert ws.subprotocol == PROTOCOL
        assert ws.protocol.extensions  # compression is negotiated with the server
        for message in ("text", "grüße €", b"\x00\xff" * 100, "", b"", "x" * 70_000):
            await ws.send(message)
            assert await ws.recv() == message


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_I6_large_and_fragmented_messages_pass_unchanged(
    here: Stage, compression: str | None
) -> None:
    async with connected(here, compression=compression) as ws:
        await ws.send(LARGE)
        assert await ws.recv() == LARGE
        await ws.send([LARGE[start : start + 9_999] for start in range(0, 500_000, 9_999)])
        assert await ws.recv() == LARGE[: 51 * 9_999]


async def test_pings_are_answered_by_the_api(here: Stage) -> None:
    async with connected(here) as ws:
        for payload in (b"", b"are you there?"):
            await (await ws.ping(payload))


async def test_close_codes_pass_both_ways(here: Stage, echo: Echo) -> None:
    async with connected(here) as ws:
        await ws.close(4001, "enough")
    await until(lambda: echo.codes)
    assert echo.codes == [4001]
    async with connected(here) as ws:
        await ws.send(f"{FAREWELL}4002")
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await ws.recv()
    assert closed.value.rcvd == Close(4002, "as you wish")


async def test_tunnel_bytes_are_metered_exactly(here: Stage) -> None:
    async with connected(here, compression=None) as ws:
        await ws.send(b"x" * 1000)
        assert await ws.recv() == b"x" * 1000
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"], event["usage"]) == (101, "ok", {"requests": 1})
    # RFC 6455, section 5.2: a frame header has 2 bytes, 2 more for a longer length, and 4 for a
    # client's mask. A close code has 2 bytes.
    assert event["bytes_in"] == (2 + 2 + 4 + 1000) + (2 + 4 + 2)
    assert event["bytes_out"] == (2 + len(GREETING)) + (2 + 2 + 1000) + (2 + 2)


async def test_I6_bytes_right_after_the_handshake_are_not_lost(here: Stage, ends: Ends) -> None:
    protocol = ClientProtocol(parse_uri("ws://api.test/ws"), subprotocols=[PROTOCOL])
    request = protocol.connect()
    request.headers["X-Api-Key"] = "acme"
    messages = [b"early %d" % number for number in range(50)]
    frames = [Frame(Opcode.TEXT, message).serialize(mask=True) for message in messages]
    client = await ends.client(here)
    await client.send(request.serialize() + b"".join(frames[:25]))
    await client.send(b"".join(frames[25:]))
    assert b" 101 " in await client.head()
    for message in [GREETING.encode(), *messages]:
        await client.get(Frame(Opcode.TEXT, message).serialize(mask=False))


async def test_a_handshake_that_the_api_refuses_is_relayed(here: Stage) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connected(here, subprotocols=None):
            pass
    status = refused.value.response.status_code
    assert status in (400, 403)
    assert [event["status"] for event in await calls(here)] == [status]


async def test_a_handshake_that_the_sidecar_refuses_is_explained(here: Stage) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connected(here, additional_headers={"X-Api-Key": "nobody"}):
            pass
    assert refused.value.response.status_code == 401
    assert refused.value.response.headers["Content-Type"] == "application/problem+json"
    assert await calls(here) == []
