"""The API that scenarios stand in front of: it has the capacity that it says, and remembers."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from loadtests.scenarios.api import Api

NEVER_S = 3_600.0  # a service time: who works on a call does not come back within a test


class Front:
    """Calls over real sockets."""

    def __init__(self, api: Api, port: int) -> None:
        self.api = api
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def call(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        return head + await reader.readexactly(length)

    async def seen(self) -> Any:
        return json.loads((await self.call("/_seen")).partition(b"\r\n\r\n")[2])

    async def has_seen(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len((await self.seen())["calls"]) < count:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Front]:
    api = Api(**request.param)
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    made = Front(api, server.sockets[0].getsockname()[1])
    yield made
    made.close()
    server.close()


@pytest.mark.parametrize("front", [{"workers": 1, "service_s": NEVER_S, "queue": 1}], indirect=True)
async def test_what_neither_workers_nor_queue_have_a_place_for_is_turned_away(front: Front) -> None:
    waiting = [asyncio.ensure_future(front.call(f"/{n}")) for n in range(2)]
    await front.has_seen(2)
    assert (await front.call("/2")).startswith(b"HTTP/1.1 503 ")
    seen = await front.seen()
    assert sorted(path for _, path in seen["calls"]) == ["/0", "/1", "/2"]
    assert seen["turned_away"] == 1
    assert not any(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("front", [{"workers": 2, "service_s": 0.0, "queue": 9}], indirect=True)
async def test_calls_are_remembered_in_their_order_with_their_times(front: Front) -> None:
    for path in ("/a", "/b", "/a"):
        assert (await front.call(path)).startswith(b"HTTP/1.1 200 ")
    times, paths = zip(*(await front.seen())["calls"], strict=True)
    assert paths == ("/a", "/b", "/a")
    assert list(times) == sorted(times)


@pytest.mark.parametrize("front", [{"workers": 1, "service_s": 0.0, "queue": 0}], indirect=True)
async def test_held_calls_are_answered_when_they_are_released(front: Front) -> None:
    held = [asyncio.ensure_future(front.call("/held")) for _ in range(3)]
    await front.has_seen(3)
    assert (await front.call("/x")).startswith(b"HTTP/1.1 200 ")  # they take no worker
    assert not any(one.done() for one in held)
    await front.call("/_release")
    for answer in await asyncio.gather(*held):
        assert answer.startswith(b"HTTP/1.1 200 ")
