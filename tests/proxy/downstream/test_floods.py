"""Many small pieces from one client: what is refused, what passes, and what others notice."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.http.raw_ends import End, Ends
from tests.support.stage import Stage, StartStage, problem, status

KEY = b"X-Api-Key: acme\r\n"
CHUNKED = b"POST /items HTTP/1.1\r\nHost: a\r\n%bTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def metric(here: Stage, name: str) -> float:
    value = here.app.metrics.registry.get_sample_value(name)
    assert value is not None
    return value


async def connect(here: Stage) -> Streams:
    return await asyncio.open_connection("127.0.0.1", here.app.data_port.port)


@pytest.mark.parametrize("key", [b"", b"X-Api-Key: made-up\r\n", KEY], ids=["none", "bad", "good"])
async def test_security_08_a_flood_of_tiny_chunks_is_refused(stage: StartStage, key: bytes) -> None:
    here = await stage(max_body_bytes="0")
    document = problem(await here.raw(CHUNKED % key + b"1\r\na\r\n" * 20_000))
    assert document["status"] == 400
    assert "tiny chunks" in str(document["detail"])


@pytest.mark.parametrize(
    ("size", "count"), [(1, 2_000), (8, 10_000), (30, 10_000)], ids=["keys", "tokens", "lines"]
)
async def test_security_08_honest_small_chunks_pass(
    stage: StartStage, size: int, count: int
) -> None:
    here = await stage()
    body = b"%x\r\n%b\r\n" % (size, b"a" * size) * count + b"0\r\n\r\n"
    assert status(await here.raw(CHUNKED % KEY + body)) == 200
    assert here.upstream.received.count(b"a" * size) >= 1
    (event,) = [one for one in await here.events() if one["type"].endswith("request.v1")]
    assert event["data"]["bytes_in"] == size * count


@pytest.mark.parametrize(
    "name", ["te", "x-account-id", "upgrade", "prefer", "via", "x-forwarded-for", "accept", "x-a",
             "tracestate", "x_account_id", "true-client-ip"]
)  # fmt: skip
async def test_security_10_each_header_line_counts(stage: StartStage, name: str) -> None:
    here = await stage(max_headers="20")
    head = b"GET /items HTTP/1.1\r\nHost: a\r\n" + KEY
    line = f"{name}: websocket\r\n".encode()
    if name not in ("via", "x_account_id"):
        assert status(await here.raw(head + line * 10 + b"\r\n")) in (200, 400)
    assert status(await here.raw(head + line * 19 + b"\r\n")) == 431


async def test_security_10_each_trailer_line_counts(stage: StartStage) -> None:
    here = await stage(max_headers="20")
    body = b"1\r\na\r\n0\r\n" + b"te: a\r\n" * 21 + b"\r\n"
    assert status(await here.raw(CHUNKED % KEY + body)) == 431


async def test_security_14_unfinished_heads_have_a_bound_per_address_and_the_oldest_gives_way(
    stage: StartStage,
) -> None:
    here = await stage(pending_header_bytes_per_address=str(1 << 16))
    head = b"GET /items HTTP/1.1\r\nHost: a\r\n" + b"X-A: " + b"a" * 20_000 + b"\r\n"
    held = []
    for _ in range(8):
        held.append(await connect(here))
        held[-1][1].write(head)
        async with asyncio.timeout(10):
            while metric(here, "sidecar_pending_headers_refused_total") + 3 < len(held) or not (
                metric(here, "sidecar_pending_header_bytes")
            ):
                await asyncio.sleep(0.005)
    assert metric(here, "sidecar_pending_header_bytes") <= 1 << 16
    async with asyncio.timeout(10):
        document = problem(await held[0][0].read())
        assert document["status"] == 503
        assert document["title"] == "Too many unfinished requests"
        held[-1][1].write(KEY + b"\r\n")  # the newest is still there
        assert b" 200 OK" in await held[-1][0].readuntil(b"ok")
    assert status(await here.call("GET", "/items")) == 200
    for _, writer in held:
        writer.close()
    async with asyncio.timeout(10):
        while metric(here, "sidecar_pending_header_bytes"):
            await asyncio.sleep(0.005)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    await made.start()
    yield made
    await made.stop()


async def head_gives_way(here: Stage, ends: Ends, requests: int) -> End:
    """A client whose unfinished head was given up, with so many requests before it."""
    line = b"GET /items HTTP/1.1\r\nHost: a\r\n" + KEY
    head = line + b"X-A: " + b"a" * 30_000
    first = await ends.client(here)
    await first.send((line + b"\r\n") * requests + head)
    for _ in range(3):
        await (await ends.client(here)).send(head)
    async with asyncio.timeout(10):
        while not metric(here, "sidecar_pending_headers_refused_total"):
            await asyncio.sleep(0.005)
    return first


async def test_security_14_requests_before_an_unfinished_head_are_answered(
    stage: StartStage, ends: Ends
) -> None:
    here = await stage(upstream=ends.url, pending_header_bytes_per_address=str(1 << 16))
    first = await head_gives_way(here, ends, 2)
    upstream = await ends.upstream()
    for _ in range(2):
        await upstream.head()
        await upstream.send(OK)
        assert status(await first.answer()) == 200
    document = problem(await first.rest())
    assert (document["status"], document["title"]) == (503, "Too many unfinished requests")
    assert not first.was_reset


async def test_security_14_a_client_that_leaves_cancels_the_request_before_its_head(
    stage: StartStage, ends: Ends
) -> None:
    here = await stage(upstream=ends.url, pending_header_bytes_per_address=str(1 << 16))
    first = await head_gives_way(here, ends, 1)
    upstream = await ends.upstream()
    await upstream.head()
    first.close()
    assert await upstream.rest() == b""  # the request to the API is cancelled


async def test_security_14_unfinished_heads_of_trusted_proxies_count_only_in_all(
    stage: StartStage,
) -> None:
    here = await stage(
        trusted_proxies="127.0.0.1", pending_header_bytes_per_address=str(1 << 16),
        pending_header_bytes=str(1 << 20),
    )  # fmt: skip
    head = b"GET /items HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 30_000
    held = [await connect(here) for _ in range(40)]
    for _, writer in held:
        writer.write(head)
    async with asyncio.timeout(10):
        while metric(here, "sidecar_pending_headers_refused_total") < 6:
            await asyncio.sleep(0.005)
    assert 1 << 16 < metric(here, "sidecar_pending_header_bytes") <= 1 << 20
    for _, writer in held:
        writer.close()


async def test_security_14_a_silent_connection_gives_way_to_a_new_one(stage: StartStage) -> None:
    here = await stage(max_connections_per_address="3")
    silent = [await connect(here) for _ in range(3)]
    async with asyncio.timeout(10):
        while here.app.data_port.connections < 3:
            await asyncio.sleep(0.005)
    assert status(await here.call("GET", "/items")) == 200
    async with asyncio.timeout(10):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await silent[0][0].readexactly(1)
    assert metric(here, "sidecar_connections_evicted_total") == 1
    for _, writer in silent:
        writer.close()


async def test_security_14_one_address_cannot_take_all_connections(stage: StartStage) -> None:
    here = await stage(max_connections="100")  # 64 of them for one address
    held = [await connect(here) for _ in range(100)]
    async with asyncio.timeout(10):
        while metric(here, "sidecar_connections_evicted_total") < 36:
            await asyncio.sleep(0.005)
    assert here.app.data_port.connections == 64
    assert status(await here.call("GET", "/items")) == 200
    for _, writer in held:
        writer.close()


async def test_security_14_trusted_proxies_have_no_limit_per_address(stage: StartStage) -> None:
    here = await stage(max_connections_per_address="1", trusted_proxies="127.0.0.0/8")
    held = [await connect(here) for _ in range(5)]
    for reader, writer in held:
        writer.write(b"GET /items HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n")
        async with asyncio.timeout(10):
            assert b" 200 OK" in await reader.readuntil(b"ok")
    for _, writer in held:
        writer.close()
