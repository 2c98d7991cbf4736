"""Preemption: if upstream connections are scarce, slow clients lose theirs, and only they."""

import asyncio

import pytest

from sidecar.core.settlement import OutcomeReason
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.upstream.address import Upstream as Where
from sidecar.proxy.upstream.pool import UpstreamFailed, UpstreamPool
from tests.support.http.raw_ends import End, Ends, calls
from tests.support.stage import Stage, StartStage, status

TWO = {
    "upstream_connections": "3",
    "critical_connections": "1",
    "account_connections_percent": "100",
    "connect_timeout_s": "20",
}
UPLOAD = b"POST /up HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 1000000\r\n\r\nbegun"
DOWNLOAD = b"GET /down HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n"
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def ends() -> object:
    """Raw connections on both sides; all are closed with the test."""
    made = Ends()
    await made.start()
    yield made
    await made.stop()


async def uploading(here: Stage, ends: Ends) -> tuple[End, End]:
    """A client that has begun an upload, and the upstream connection that waits for the rest."""
    client = await ends.client(here)
    await client.send(UPLOAD)
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.get(b"begun")
    return client, upstream


async def next_millisecond() -> None:
    """Wait for another time of the loop's clock: at equal times, either client may be taken."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    while loop.time() == now:
        await asyncio.sleep(0)


async def answered(here: Stage, ends: Ends) -> int:
    """The status of a further request, to which the upstream responds at once."""
    call = asyncio.ensure_future(here.call("GET", "/x"))
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(SMALL)
    return status(await call)


async def test_the_slowest_upload_is_preempted(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url, stall_timeout_s="0.2", **TWO)
    first = await uploading(here, ends)
    await next_millisecond()
    second = await uploading(here, ends)
    assert await answered(here, ends) == 200
    assert status(await first[0].rest()) == 408
    assert not (await first[1].rest()).endswith(b"0\r\n\r\n")
    await second[0].send(b"more")
    await second[1].get(b"more")
    assert here.app.metrics.registry.get_sample_value("sidecar_slow_clients_ended_total") == 1
    assert [(call["status"], call["reason"]) for call in await calls(here)] == [
        (408, "client_gone"), (200, "ok")
    ]  # fmt: skip


async def test_a_client_that_does_not_read_is_preempted(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url, stall_timeout_s="0.2", **TWO)
    readers = []
    for _ in range(2):
        reader = await ends.client(here, receive_buffer=4096)
        await reader.send(DOWNLOAD)
        upstream = await ends.upstream()
        await upstream.head()
        upstream.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n")
        upstream.writer.write(b"x" * 90_000_000)
        readers.append(reader)
    assert await answered(here, ends) == 200
    assert here.app.metrics.registry.get_sample_value("sidecar_slow_clients_ended_total") == 1


async def test_no_client_is_preempted_while_connections_are_free(
    stage: StartStage, ends: Ends
) -> None:
    here = await stage(upstream=ends.url, stall_timeout_s="0.001", **TWO)
    client, upstream = await uploading(here, ends)
    assert await answered(here, ends) == 200
    await client.send(b"more")
    await upstream.get(b"more")
    assert here.app.metrics.registry.get_sample_value("sidecar_slow_clients_ended_total") == 0


async def test_a_client_that_waits_for_a_slow_api_is_not_preempted(
    stage: StartStage, ends: Ends
) -> None:
    flags = TWO | {"connect_timeout_s": "0.3"}
    here = await stage(upstream=ends.url, stall_timeout_s="0.01", **flags)
    held = []
    for _ in range(2):
        client = await ends.client(here)
        await client.send(DOWNLOAD)
        upstream = await ends.upstream()
        await upstream.head()
        held.append((client, upstream))
    assert status(await here.call("GET", "/x")) == 503
    for client, upstream in held:
        await upstream.send(SMALL)
        assert status(await client.answer()) == 200


async def test_a_standing_queue_serves_the_newest_request_first(ends: Ends) -> None:
    pool = UpstreamPool(
        Where("127.0.0.1", int(ends.url.rpartition(":")[2])),
        Bounds(upstream_connections=1, critical_connections=0, connect_timeout=30),
    )
    clock = [pool.now()]
    pool.now = lambda: clock[0]
    connection = await pool.acquire()
    served: list[str] = []

    async def want(name: str) -> None:
        await pool.acquire()
        served.append(name)

    waiting = []
    for name in ("first", "second", "third", "fourth"):
        waiting.append(asyncio.ensure_future(want(name)))
        await asyncio.sleep(0)
    for moment in (0.05, 1.0, 0.0, 0.0):
        clock[0] += moment
        before = len(served)
        pool.release(connection)
        while len(served) == before:
            await asyncio.sleep(0)
    assert served == ["first", "fourth", "third", "second"]
    pool.close()


async def test_the_wait_for_a_connection_has_a_timeout(ends: Ends) -> None:
    pool = UpstreamPool(
        Where("127.0.0.1", int(ends.url.rpartition(":")[2])),
        Bounds(upstream_connections=1, critical_connections=0, connect_timeout=0.05),
    )
    await pool.acquire()
    with pytest.raises(UpstreamFailed) as failed:
        await pool.acquire()
    assert failed.value.reason is OutcomeReason.OVERLOADED
    assert pool.waiting == 0
    pool.close()


async def test_a_flood_of_one_account_does_not_delay_the_turn_of_another(ends: Ends) -> None:
    pool = UpstreamPool(
        Where("127.0.0.1", int(ends.url.rpartition(":")[2])),
        Bounds(upstream_connections=1, critical_connections=0, connect_timeout=30),
    )
    connection = await pool.acquire("flood")
    served: list[str] = []

    async def want(name: str) -> None:
        await pool.acquire(name)
        served.append(name)

    names = ["flood"] * 20 + ["quiet"] * 2
    waiting = [asyncio.ensure_future(want(name)) for name in names]
    while pool.waiting < len(names):
        await asyncio.sleep(0)
    while len(served) < len(names):
        before = len(served)
        pool.release(connection)
        # A new request does not get a connection that is promised to another.
        assert pool.take_idle("new", critical=False) is None
        while len(served) == before:
            await asyncio.sleep(0)
    assert served[:4] == ["flood", "quiet", "flood", "quiet"]
    await asyncio.gather(*waiting)
    pool.close()


async def test_an_unused_turn_goes_to_the_next_request(ends: Ends) -> None:
    pool = UpstreamPool(
        Where("127.0.0.1", int(ends.url.rpartition(":")[2])),
        Bounds(upstream_connections=1, critical_connections=0, connect_timeout=30),
    )
    connection = await pool.acquire("a")
    first = asyncio.ensure_future(pool.acquire("a"))
    second = asyncio.ensure_future(pool.acquire("b"))
    while pool.waiting < 2:
        await asyncio.sleep(0)
    pool.release(connection)
    first.cancel()  # at the moment of its turn
    assert await second is connection
    with pytest.raises(asyncio.CancelledError):
        await first
    pool.close()
