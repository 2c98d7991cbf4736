"""SIGTERM under load: each request in flight is completed and recorded, then exit 0."""

import asyncio
import signal
from collections import Counter

import pytest

from tests.support.processes import Serving, SlowApi, StartServing, until

CALLS = 200
# Enough connections, even if one worker gets all requests.
ROOM = {"drain_timeout_s": 60, "upstream_connections": CALLS * 4}


async def call(here: Serving, number: int) -> bytes:
    """Send one request on a new connection. Returns all bytes until the sidecar closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    try:
        writer.write(b"GET /items/%d HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n" % number)
        async with asyncio.timeout(90):
            return await reader.read()
    finally:
        writer.close()


async def is_refused(here: Serving) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@pytest.mark.parametrize("workers", [1, 2])
async def test_I4_requests_in_flight_at_sigterm_are_completed_and_recorded(
    serving: StartServing, slow_api: SlowApi, workers: int
) -> None:
    several = {"workers": workers} if workers > 1 else {}
    here = await serving(upstream=f"http://127.0.0.1:{slow_api.port}", **ROOM, **several)
    calls = [asyncio.create_task(call(here, number)) for number in range(CALLS)]
    await until(lambda: slow_api.arrived == CALLS)
    here.process.send_signal(signal.SIGTERM)
    await until(lambda: here.said("drain_started"))
    async with asyncio.timeout(60):
        while not await is_refused(here):
            await asyncio.sleep(0.02)
    assert here.process.returncode is None  # it waits for them
    assert not any(one.done() for one in calls)
    slow_api.release.set()
    answers = await asyncio.gather(*calls)
    assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") for answer in answers)
    assert all(answer.endswith(b"\r\n\r\nfirst-second") for answer in answers)
    async with asyncio.timeout(60):
        assert await here.process.wait() == 0
    assert here.said("sidecar_stopped")
    served = [event for event in here.events() if event["type"] == "api.request.v1"]
    assert Counter((e["data"]["status"], e["data"]["reason"]) for e in served) == {
        (200, "ok"): CALLS
    }
    ids = {answer.partition(b"X-Request-Id: ")[2].split(b"\r\n")[0].decode() for answer in answers}
    assert ids == {event["id"] for event in served}


async def test_requests_that_outlast_the_drain_are_reset_and_recorded(
    serving: StartServing, slow_api: SlowApi
) -> None:
    here = await serving(upstream=f"http://127.0.0.1:{slow_api.port}", drain_timeout_s="0.2")
    calls = [asyncio.create_task(call(here, number)) for number in range(5)]
    await until(lambda: slow_api.arrived == 5)
    here.process.send_signal(signal.SIGTERM)
    ends = await asyncio.gather(*calls, return_exceptions=True)
    # Reset, or closed before the end of the body: never a complete response.
    assert not any(isinstance(end, bytes) and end.endswith(b"second") for end in ends)
    async with asyncio.timeout(60):
        assert await here.process.wait() == 0
    assert [event["type"] for event in here.events()] == ["api.request.v1"] * 5
