"""A client that leaves before the end of its response: recorded, and the API is released."""

import asyncio
import socket
import struct
from typing import Any

import pytest

from tests.support.processes import SlowApi, until
from tests.support.stage import Stage, StartStage

CALL = b"GET /items HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a timeout of 0


async def leave(here: Stage, until_read: bytes, *, reset: bool) -> None:
    """Send a request, read the response up to `until_read`, and close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    if reset:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.write(CALL)
    async with asyncio.timeout(10):
        await reader.readuntil(until_read)
    writer.close()
    await writer.wait_closed()


async def the_event(here: Stage) -> dict[str, Any]:
    read = here.app.metrics.registry.get_sample_value
    labels = {"route": "rest", "class": "standard", "plan": "free", "outcome": "client_gone"}
    await until(lambda: read("sidecar_requests_total", labels) == 1)
    [event] = await here.events()
    assert event["type"] == "api.request.v1"
    data: dict[str, Any] = event["data"]
    return data


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
async def test_I4_a_client_that_leaves_during_the_response_is_recorded_with_the_bytes_sent(
    stage: StartStage, slow_api: SlowApi, reset: bool
) -> None:
    here = await stage(upstream=f"http://127.0.0.1:{slow_api.port}")
    await leave(here, b"first-", reset=reset)
    data = await the_event(here)
    assert (data["status"], data["reason"], data["billable"]) == (200, "client_gone", True)
    assert (data["usage"], data["bytes_out"]) == ({"requests": 1}, len("first-"))
    await until(lambda: slow_api.left == 1)  # the API's connection is closed
    assert here.app.data_port.connections == 0


async def test_I4_a_client_that_leaves_before_the_first_byte_is_recorded_as_499(
    stage: StartStage,
) -> None:
    here = await stage()
    here.upstream.hold = True
    _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(CALL)
    await until(lambda: here.upstream.received)
    writer.transport.abort()
    data = await the_event(here)
    assert (data["status"], data["reason"], data["bytes_out"]) == (499, "client_gone", 0)


async def test_I9_a_client_that_leaves_while_the_api_still_sends_stops_the_api(
    stage: StartStage, slow_api: SlowApi
) -> None:
    whole = 64 << 20
    slow_api.first = bytes(whole)
    here = await stage(upstream=f"http://127.0.0.1:{slow_api.port}")
    await leave(here, b"\r\n\r\n", reset=True)
    data = await the_event(here)
    assert (data["status"], data["reason"]) == (200, "client_gone")
    assert data["bytes_out"] < whole


async def test_a_client_is_served_after_others_left(stage: StartStage, slow_api: SlowApi) -> None:
    here = await stage(upstream=f"http://127.0.0.1:{slow_api.port}", upstream_connections="32")
    await asyncio.gather(*(leave(here, b"first-", reset=True) for _ in range(32)))
    slow_api.release.set()
    answer = await here.raw(CALL)
    assert answer.endswith(b"first-second")
    reasons = [event["data"]["reason"] for event in await here.events()]
    assert sorted(reasons) == ["client_gone"] * 32 + ["ok"]
