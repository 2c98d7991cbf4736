"""Server-sent events through the sidecar, read by httpx line by line."""

import secrets
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.http.asgi_api import PATIENCE_S, Api
from tests.support.http.raw_ends import calls, empty
from tests.support.processes import until
from tests.support.stage import Stage, StartStage


@pytest.fixture
async def front(stage: StartStage, api: Api) -> Stage:
    """A sidecar with a short timeout for half-closed clients."""
    return await stage(upstream=api.url, half_close_timeout_s="0.3")


@pytest.fixture
async def client(base: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=base, headers={"X-Api-Key": "acme"}, timeout=PATIENCE_S, trust_env=False
    ) as made:
        yield made


async def event_of(lines: AsyncIterator[str]) -> list[str]:
    """Read the lines of the next event."""
    event = []
    while line := await anext(lines):
        event.append(line)
    return event


async def test_each_event_arrives_before_the_next_is_sent(
    client: httpx.AsyncClient, front: Stage, api: Api
) -> None:
    name = secrets.token_hex(8)
    api.drip(name, b": begins\n\n")
    async with client.stream("GET", f"/drip/{name}?type=text/event-stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        assert await event_of(lines) == [": begins"]
        for number in range(20):
            api.drip(name, b"id: %d\ndata: %d\n\n" % (number, number))
            assert await event_of(lines) == [f"id: {number}", f"data: {number}"]
        api.drip(name, b"")
        assert [line async for line in lines] == []
    (event,) = await calls(front)
    assert (event["status"], event["reason"]) == (200, "ok")


async def test_a_client_that_leaves_cancels_the_stream_and_is_recorded(
    client: httpx.AsyncClient, front: Stage, api: Api
) -> None:
    name = secrets.token_hex(8)
    api.drip(name, b"data: 1\n\n")
    async with client.stream("GET", f"/drip/{name}?type=text/event-stream") as answer:
        assert await event_of(answer.aiter_lines()) == ["data: 1"]
    await until(lambda: name in api.left)
    await empty(front)
    (event,) = await calls(front)
    assert (event["status"], event["reason"], event["bytes_out"]) == (200, "client_gone", 9)


async def test_open_streams_delay_no_other_request(client: httpx.AsyncClient, api: Api) -> None:
    names = [secrets.token_hex(8) for _ in range(20)]
    streams = [client.stream("GET", f"/drip/{name}?type=text/event-stream") for name in names]
    for name, stream in zip(names, streams, strict=True):
        api.drip(name, b"data: open\n\n")
        await stream.__aenter__()
    assert (await client.get("/echo/other")).status_code == 200
    for stream in streams:
        await stream.__aexit__(None, None, None)
