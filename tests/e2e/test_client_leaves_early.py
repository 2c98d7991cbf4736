"""I11: a client that leaves before the cost is known pays what the response costs."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http.held_api import HeldApi, held
from tests.support.processes import until
from tests.support.stage import Stage, StartStage

PLANS = Path(__file__).parents[2] / "examples" / "ai.yaml"
ASK = b'{"max_tokens":1,"stream":true,"stream_options":{"include_usage":true}}'
LEAST = 1 + -(-len(ASK) // 4)  # what it asks for, and its size
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WORD = {"choices": [{"index": 0, "delta": {"content": "last-word"}}]}
USAGE = {"choices": [], "usage": {"total_tokens": 50_040}}


def event(document: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(document).encode()


def chunk(document: dict[str, Any]) -> bytes:
    data = event(document)
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
async def api() -> AsyncIterator[HeldApi]:
    async with held(HEAD + chunk(WORD), chunk(USAGE) + b"0\r\n\r\n") as served:
        yield served


async def start(stage: StartStage, api: HeldApi, **flags: str) -> Stage:
    return await stage(plans=str(PLANS), upstream=f"http://127.0.0.1:{api.port}", **flags)


async def leave(here: Stage, after: bytes, api: HeldApi, key: bytes = b"demo-pro-key") -> None:
    """Send a request, read up to `after`, and reset the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (key, len(ASK), ASK)
    )
    if after:
        async with asyncio.timeout(10):
            await reader.readuntil(after)
    else:
        await until(lambda: api.asked)
    writer.close()
    await until(lambda: not here.app.data_port.connections)


async def the_event(here: Stage) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not found:
            found = [e["data"] for e in await here.events() if e["type"] == "api.request.v1"]
            await asyncio.sleep(0)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("after", [b"last-word", b""], ids=["ai-hang-up-before-usage", "at once"])
async def test_I11_the_response_is_read_on_until_its_cost_is_known(
    stage: StartStage, api: HeldApi, after: bytes
) -> None:
    if not after:
        api.before, api.after = b"", HEAD + chunk(WORD) + api.after
    here = await start(stage, api)
    await leave(here, after, api)
    await until(lambda: here.app.data_port.unfinished)
    assert [e for e in await here.events() if e["type"] == "api.request.v1"] == []
    api.left.set()
    data = await the_event(here)
    assert (data["usage"]["tokens"], data["reason"]) == (50_040, "client_gone")
    assert (data["status"], data["bytes_out"]) == ((200, len(event(WORD))) if after else (499, 0))
    assert "estimated" not in data
    assert here.app.data_port.unfinished == set()


async def test_I11_usage_that_was_reported_counts_at_once(stage: StartStage, api: HeldApi) -> None:
    """ai-usage-known-at-abort."""
    api.before = HEAD + chunk(WORD | {"usage": {"total_tokens": 1_002}})
    here = await start(stage, api)
    await leave(here, b"1002}", api)
    data = await the_event(here)
    assert (data["usage"]["tokens"], data["reason"]) == (1_002, "client_gone")
    await until(lambda: api.cut == 1)


async def test_without_time_for_it_the_estimate_stays(stage: StartStage, api: HeldApi) -> None:
    here = await start(stage, api, usage_timeout_s="0")
    await leave(here, b"last-word", api)
    data = await the_event(here)
    assert (data["usage"]["tokens"], data["estimated"]) == (LEAST, {"tokens": "truncated"})
    await until(lambda: api.cut == 1)


@pytest.mark.parametrize("bound", [{"usage_bytes": "50"}, {"usage_timeout_s": "0.05"}])
async def test_I9_reading_on_is_bounded(
    stage: StartStage, api: HeldApi, bound: dict[str, str]
) -> None:
    api.after = chunk(WORD)
    here = await start(stage, api, **bound)
    await leave(here, b"last-word", api)
    if "usage_bytes" in bound:
        await until(lambda: here.app.data_port.unfinished)
        api.left.set()
    data = await the_event(here)
    tokens = LEAST + ("usage_bytes" in bound)  # two events have passed
    assert (data["usage"]["tokens"], data["estimated"]) == (tokens, {"tokens": "truncated"})
    await until(lambda: api.cut == 1)


async def test_I4_a_sidecar_that_stops_records_what_it_still_reads(
    stage: StartStage, api: HeldApi
) -> None:
    here = await start(stage, api, drain_timeout_s="0.1")
    await leave(here, b"last-word", api)
    await until(lambda: here.app.data_port.unfinished)
    await here.app.stop()
    lines = [line for p in here.spool.glob("*.jsonl") for line in p.read_text().splitlines()]
    [data] = [e["data"] for e in map(json.loads, lines) if e["type"] == "api.request.v1"]
    assert (data["usage"]["tokens"], data["reason"]) == (LEAST, "client_gone")


async def test_I9_clients_that_left_use_a_share_of_the_connections(
    stage: StartStage, api: HeldApi
) -> None:
    """Half of 8 connections: two of each account, and one is always left."""
    here = await start(
        stage,
        api,
        upstream_connections="8",
        critical_connections="1",
        usage_connections_percent="50",
    )
    pool = here.app.data_port._pool
    for _ in range(5):
        await leave(here, b"last-word", api)
    await until(lambda: pool.usage_refused == 3)
    await until(lambda: pool.places.taken == pool.usage_reads.taken == 2)
    at_once = await requests(here, 3)
    assert {one["usage"]["tokens"] for one in at_once} == {LEAST}
    assert all(one["estimated"] == {"tokens": "truncated"} for one in at_once)
    for _ in range(3):
        await leave(here, b"last-word", api, b"demo-enterprise-key")
    await until(lambda: pool.usage_refused == 5)
    await until(lambda: pool.places.taken == pool.usage_reads.taken == 3)
    assert len(here.app.data_port.unfinished) == 3
    api.left.set()
    events = await requests(here, 8)
    assert [one["usage"]["tokens"] for one in events].count(50_040) == 3
    await until(lambda: not pool.usage_reads.taken)
    metrics = here.app.metrics.costs_estimated
    assert metrics == {("tokens", "truncated"): 5}


async def requests(here: Stage, count: int) -> list[dict[str, Any]]:
    """The data of so many usage events, when they are there."""
    async with asyncio.timeout(10):
        while True:
            found = [e["data"] for e in await here.events() if e["type"] == "api.request.v1"]
            if len(found) >= count:
                assert len(found) == count
                return found
            await asyncio.sleep(0)
