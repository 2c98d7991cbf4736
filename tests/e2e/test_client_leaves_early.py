"""I11: a client that leaves before the cost is known pays what the response costs."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

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


class Api:
    """Sends `before`, and `after` when `left` is set. `cut`: the connections that ended."""

    port = 0

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after = before, after
        self.left = asyncio.Event()
        self.asked = self.cut = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(ASK))
            self.asked += 1
            writer.write(self.before)
            waiting = asyncio.ensure_future(self.left.wait())
            ended = asyncio.ensure_future(reader.read())
            await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                writer.write(self.after)
            waiting.cancel()
            await ended
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.cut += 1


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    served = Api(HEAD + chunk(WORD), chunk(USAGE) + b"0\r\n\r\n")
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    yield served
    for writer in served.writers:
        writer.transport.abort()
    await until(lambda: served.cut == len(served.writers))
    server.close()


async def start(stage: StartStage, api: Api, **flags: str) -> Stage:
    return await stage(plans=str(PLANS), upstream=f"http://127.0.0.1:{api.port}", **flags)


async def leave(here: Stage, after: bytes, api: Api) -> None:
    """Send a request, read up to `after`, and reset the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(ASK), ASK)
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
    stage: StartStage, api: Api, after: bytes
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


async def test_I11_usage_that_was_reported_counts_at_once(stage: StartStage, api: Api) -> None:
    """ai-usage-known-at-abort."""
    api.before = HEAD + chunk(WORD | {"usage": {"total_tokens": 1_002}})
    here = await start(stage, api)
    await leave(here, b"1002}", api)
    data = await the_event(here)
    assert (data["usage"]["tokens"], data["reason"]) == (1_002, "client_gone")
    await until(lambda: api.cut == 1)


async def test_without_time_for_it_the_estimate_stays(stage: StartStage, api: Api) -> None:
    here = await start(stage, api, usage_timeout_s="0")
    await leave(here, b"last-word", api)
    data = await the_event(here)
    assert (data["usage"]["tokens"], data["estimated"]) == (LEAST, {"tokens": "truncated"})
    await until(lambda: api.cut == 1)


@pytest.mark.parametrize("bound", [{"usage_bytes": "50"}, {"usage_timeout_s": "0.05"}])
async def test_I9_reading_on_is_bounded(stage: StartStage, api: Api, bound: dict[str, str]) -> None:
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
    stage: StartStage, api: Api
) -> None:
    here = await start(stage, api, drain_timeout_s="0.1")
    await leave(here, b"last-word", api)
    await until(lambda: here.app.data_port.unfinished)
    await here.app.stop()
    lines = [line for p in here.spool.glob("*.jsonl") for line in p.read_text().splitlines()]
    [data] = [e["data"] for e in map(json.loads, lines) if e["type"] == "api.request.v1"]
    assert (data["usage"]["tokens"], data["reason"]) == (LEAST, "client_gone")
