"""Ends of an open WebSocket by the sidecar: idle timeout, maximum lifetime and drain."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import websockets

from tests.support.http.raw_ends import calls, empty
from tests.support.http.websocket_ends import Echo, connected, websockets_echo
from tests.support.stage import Stage, StartStage


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with websockets_echo() as started:
        yield started


async def talk(ws: websockets.ClientConnection) -> None:
    """Send a message and receive its echo."""
    await ws.send("still here")
    assert await ws.recv() == "still here"


async def goes_away(ws: websockets.ClientConnection) -> None:
    """Check that the connection ends with a Close frame that says so."""
    with pytest.raises(websockets.ConnectionClosedOK) as closed:
        await ws.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001


async def test_I9_an_idle_tunnel_is_closed_and_a_busy_one_is_not(
    stage: StartStage, echo: Echo
) -> None:
    here = await stage(upstream=echo.url, tunnel_idle_timeout_s="2")
    async with connected(here) as busy, connected(here) as silent:
        closing = asyncio.ensure_future(goes_away(silent))
        while not closing.done():
            await talk(busy)
        await closing
        await talk(busy)
    await empty(here)
    first, last = await calls(here)
    assert (first["status"], first["reason"]) == (last["status"], last["reason"]) == (101, "ok")
    assert 1900 < first["latency_ms"] <= last["latency_ms"]
    assert first["bytes_in"] < last["bytes_in"]


async def test_I9_a_busy_tunnel_is_closed_at_its_maximum_lifetime(
    stage: StartStage, echo: Echo
) -> None:
    here = await stage(upstream=echo.url, tunnel_lifetime_s="0.5")
    with pytest.raises(websockets.ConnectionClosed):
        async with connected(here) as busy:
            while True:
                await talk(busy)
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"]) == (101, "ok")
    assert event["latency_ms"] > 400


async def test_a_drain_closes_tunnels_at_once_and_records_them(
    stage: StartStage, echo: Echo
) -> None:
    here = await stage(upstream=echo.url, drain_timeout_s="600")
    async with AsyncExitStack() as tunnels:
        open_ones = [await tunnels.enter_async_context(connected(here)) for _ in range(3)]
        stopping = asyncio.ensure_future(here.app.stop())
        for ws in open_ones:
            await goes_away(ws)
        await stopping
    assert [(event["status"], event["reason"]) for event in recorded(here)] == [(101, "ok")] * 3


def recorded(here: Stage) -> list[dict[str, Any]]:
    """The data of the events in the spool of a stopped sidecar."""
    lines = [path.read_text().splitlines() for path in sorted(here.spool.glob("*.jsonl"))]
    return [json.loads(line)["data"] for part in lines for line in part]
