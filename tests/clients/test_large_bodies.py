"""Very large bodies through a separate process, whose memory is measured from outside."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.http.large_bodies import (
    MEGABYTE,
    PATIENCE_S,
    LargeApi,
    LargeClient,
    Sender,
    memory_kb,
)
from tests.support.processes import Serving, StartServing, until

GIGABYTE = 1024  # megabytes
GROWTH_KB = 32 * 1024
STILL = 25  # checks in a row without progress: the sender is blocked


@pytest.fixture
def large() -> Iterator[LargeApi]:
    api = LargeApi()
    api.start()
    yield api
    api.stop()


class Watched:
    """A sidecar that has served a request, and its peak memory by then."""

    def __init__(self, here: Serving) -> None:
        self.port = here.port
        self._here = here
        self._before = memory_kb(here.process.pid, "VmHWM")

    @property
    def growth_kb(self) -> int:
        return memory_kb(self._here.process.pid, "VmHWM") - self._before

    async def last_event(self) -> dict[str, Any]:
        """End the process. Returns the event of the second request."""
        self._here.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            assert await self._here.process.wait() == 0
        _, event = self._here.events()
        data: dict[str, Any] = event["data"]
        return data


@pytest.fixture
async def watched(serving: StartServing, large: LargeApi) -> Watched:
    here = await serving(upstream=large.url)
    client = LargeClient(here.port)
    client.go.set()
    assert await asyncio.to_thread(client.get) == len(MEGABYTE)
    return Watched(here)


async def held(sender: Sender) -> int:
    """The megabytes after which the sender is blocked."""
    samples: list[int] = []

    def is_still() -> bool:
        samples.append(sender.sent)
        return samples[-1] > 0 and samples[-STILL:] == [samples[-1]] * STILL

    await until(is_still)
    return samples[-1]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_I6_a_gigabyte_down_needs_no_memory(
    watched: Watched, large: LargeApi, chunked: bool
) -> None:
    large.megabytes, large.chunked = GIGABYTE, chunked
    client = LargeClient(watched.port)
    client.go.set()
    taken = await asyncio.to_thread(client.get)
    assert taken >= GIGABYTE << 20
    assert watched.growth_kb < GROWTH_KB
    assert (await watched.last_event())["bytes_out"] == GIGABYTE << 20


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_I6_a_gigabyte_up_needs_no_memory(
    watched: Watched, large: LargeApi, chunked: bool
) -> None:
    client = LargeClient(watched.port)
    answer = await asyncio.to_thread(client.put, GIGABYTE, chunked=chunked)
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert large.taken[0] >= GIGABYTE << 20
    assert watched.growth_kb < GROWTH_KB
    assert (await watched.last_event())["bytes_in"] == GIGABYTE << 20


async def test_I9_backpressure_slows_an_api_that_is_faster_than_its_client(
    watched: Watched, large: LargeApi
) -> None:
    large.megabytes, large.sent = 256, 0
    client = LargeClient(watched.port)
    getting = asyncio.create_task(asyncio.to_thread(client.get))
    assert await held(large) < 64
    assert watched.growth_kb < GROWTH_KB
    client.go.set()
    assert await getting == 256 << 20


async def test_I9_backpressure_slows_a_client_that_is_faster_than_the_api(
    watched: Watched, large: LargeApi
) -> None:
    large.go.clear()
    client = LargeClient(watched.port)
    putting = asyncio.create_task(asyncio.to_thread(client.put, 256, chunked=False))
    assert await held(client) < 64
    assert watched.growth_kb < GROWTH_KB
    large.go.set()
    assert (await putting).startswith(b"HTTP/1.1 204 ")
    assert large.taken == [256 << 20]
