"""The API of the scenarios: its capacity, and its record of requests."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from loadtests.scenarios.api import Api

NEVER_S = 3_600.0  # a service time that does not end within a test


class ApiClient:
    """A client with one socket per request."""

    def __init__(self, api: Api, port: int) -> None:
        self.api = api
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def request(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        return head + await reader.readexactly(length)

    async def arrivals(self) -> Any:
        return json.loads((await self.request("/_seen")).partition(b"\r\n\r\n")[2])

    async def wait_for_arrivals(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len((await self.arrivals())["requests"]) < count:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def client(request: pytest.FixtureRequest) -> AsyncIterator[ApiClient]:
    api = Api(**request.param)
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    client = ApiClient(api, server.sockets[0].getsockname()[1])
    yield client
    client.close()
    server.close()


@pytest.mark.parametrize(
    "client", [{"workers": 1, "service_s": NEVER_S, "queue": 1}], indirect=True
)
async def test_a_request_beyond_workers_and_queue_is_refused(client: ApiClient) -> None:
    waiting = [asyncio.ensure_future(client.request(f"/{n}")) for n in range(2)]
    await client.wait_for_arrivals(2)
    assert (await client.request("/2")).startswith(b"HTTP/1.1 503 ")
    arrivals = await client.arrivals()
    assert sorted(path for _, path in arrivals["requests"]) == ["/0", "/1", "/2"]
    assert arrivals["turned_away"] == 1
    assert not any(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("client", [{"workers": 2, "service_s": 0.0, "queue": 9}], indirect=True)
async def test_requests_are_recorded_in_order_with_their_times(client: ApiClient) -> None:
    for path in ("/a", "/b", "/a"):
        assert (await client.request(path)).startswith(b"HTTP/1.1 200 ")
    times, paths = zip(*(await client.arrivals())["requests"], strict=True)
    assert paths == ("/a", "/b", "/a")
    assert list(times) == sorted(times)


@pytest.mark.parametrize("client", [{"workers": 1, "service_s": 0.0, "queue": 0}], indirect=True)
async def test_held_requests_are_answered_on_release(client: ApiClient) -> None:
    held = [asyncio.ensure_future(client.request("/held")) for _ in range(3)]
    await client.wait_for_arrivals(3)
    assert (await client.request("/x")).startswith(b"HTTP/1.1 200 ")  # held requests take no worker
    assert not any(one.done() for one in held)
    await client.request("/_release")
    for answer in await asyncio.gather(*held):
        assert answer.startswith(b"HTTP/1.1 200 ")
