"""Open tunnels when their quota is used up: they stay open, or are closed if the plan says so."""

import asyncio

import pytest

from tests.support.stage import Stage, StartStage, status

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def a_stage(stage: StartStage, word: str) -> Stage:
    here = await stage(quota=2)
    text = here.plans.read_text()
    here.plans.write_text(text.replace("  free:\n", f"  free:\n    tunnels_at_quota: {word}\n"))
    await here.app.keeper.reload()
    here.app.data_port._handler._tunnel_check = 0.01  # so that tests need not wait
    here.upstream.answer = SWITCHED
    return here


async def a_tunnel(here: Stage, path: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(HANDSHAKE % path)
    assert status(await reader.readuntil(b"\r\n\r\n")) == 101
    return reader, writer


async def spend(here: Stage) -> None:
    here.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    while status(await here.call("GET", "/x")) == 200:
        pass


async def test_a_plan_closes_tunnels_when_its_quota_is_used_up(stage: StartStage) -> None:
    here = await a_stage(stage, "close")
    reader, writer = await a_tunnel(here, b"/ws")
    await spend(here)
    async with asyncio.timeout(10):
        assert await reader.read() == b"\x88\x0f" + (1008).to_bytes(2, "big") + b"quota used up"
    writer.close()
    events: list[dict[str, object]] = []
    async with asyncio.timeout(10):
        while not events:  # the tunnel ends when the API has closed it, too
            recorded = await here.events()
            events = [event["data"] for event in recorded if event["data"].get("status") == 101]
    assert [(event["reason"], event["route"]) for event in events] == [("ok", "rest")]


@pytest.mark.parametrize(("word", "path"), [("keep", b"/ws"), ("close", b"/status")])
async def test_I3_other_tunnels_stay_open(stage: StartStage, word: str, path: bytes) -> None:
    here = await a_stage(stage, word)
    reader, writer = await a_tunnel(here, path)
    await spend(here)
    watched, watching = await a_tunnel_that_ends(here)
    assert await watched.read() == b""  # a check has run
    watching.close()
    assert not reader.at_eof()
    writer.close()


async def a_tunnel_that_ends(
    here: Stage,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A critical tunnel that the client closes, after several checks of other tunnels."""
    here.upstream.answer = SWITCHED
    reader, writer = await a_tunnel(here, b"/status")
    for _ in range(50):
        await asyncio.wait_for(here.app.store.peek(*nothing(here)), 10)
    writer.write_eof()
    return reader, writer


def nothing(here: Stage) -> tuple[object, str, tuple[object, ...]]:
    account = here.app.keeper.book.accounts["acme"]
    entitlement = here.app.keeper.book.entitlements[("free", "rest")]
    return account, "k1", entitlement.claims
