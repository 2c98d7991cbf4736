"""Timeouts of the upstream, the number of connections, and retries."""

import asyncio

import pytest

from tests.support.stage import Stage, StartStage, problem, status


async def test_a_late_response_head_is_a_504(stage: StartStage) -> None:
    here = await stage(response_timeout_s="0.1")
    here.upstream.hold = True
    assert problem(await here.call("GET", "/x"))["status"] == 504


async def a_begun_answer(here: Stage) -> bytes:
    here.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun"
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
    got = b""
    try:
        async with asyncio.timeout(10):
            while data := await reader.read(1000):
                got += data
    except ConnectionResetError:
        pass  # a reset: a client cannot take the part for the whole response
    writer.close()
    return got


@pytest.mark.parametrize("setting", ["stream_timeout_s", "total_timeout_s"])
async def test_a_stalled_response_is_reset(stage: StartStage, setting: str) -> None:
    here = await stage(**{setting: "0.1"})
    got = await a_begun_answer(here)
    assert not got.endswith(b"begun12345")
    [event] = await here.events()
    assert event["data"]["reason"] == "upstream_timeout"


async def waiting(here: Stage, path: str) -> asyncio.Task[bytes]:
    """A request that uses an upstream connection."""
    before = here.upstream.received.count(b"GET ")
    task = asyncio.ensure_future(here.call("GET", path))
    async with asyncio.timeout(10):
        while here.upstream.received.count(b"GET ") == before:
            await asyncio.sleep(0)
    return task


async def test_I3_some_connections_are_reserved_for_critical_requests(stage: StartStage) -> None:
    here = await stage(
        upstream_connections="3",
        critical_connections="1",
        account_connections_percent="100",
        connect_timeout_s="0.2",
    )
    here.upstream.hold = True
    held = [await waiting(here, f"/x{number}") for number in range(2)]
    refused = await here.call("GET", "/x")
    assert problem(refused)["status"] == 503
    assert b"\r\nRetry-After: 1\r\n" in refused
    critical = await waiting(here, "/status")
    assert here.upstream.connections == 3
    for task in (*held, critical):
        task.cancel()
    await asyncio.gather(*held, critical, return_exceptions=True)
    reasons = {event["data"]["reason"] for event in await here.events()}
    assert "overloaded" in reasons


class Stale:
    """Serves the first request of its first connection, and closes that at the second request."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        first = self.connections == 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head.split(b" HTTP")[0])
                if first and len(self.requests) > 1:
                    break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@pytest.mark.parametrize(
    ("request_", "answered", "sent"),
    [
        (b"GET /b HTTP/1.1\r\n", 200, [b"GET /a", b"GET /b", b"GET /b"]),
        (b"POST /b HTTP/1.1\r\nContent-Length: 2\r\n", 502, [b"GET /a", b"POST /b"]),
        (b"POST /b HTTP/1.1\r\n", 502, [b"GET /a", b"POST /b"]),
        (b"PUT /b HTTP/1.1\r\nContent-Length: 2\r\n", 502, [b"GET /a", b"PUT /b"]),
    ],
    ids=["GET", "POST", "POST without a body", "PUT with a body"],
)
async def test_only_idempotent_requests_are_retried_on_a_new_connection(
    stage: StartStage, request_: bytes, answered: int, sent: list[bytes]
) -> None:
    api = Stale()
    async with await asyncio.start_server(api.serve, "127.0.0.1", 0) as server:
        here = await stage(upstream=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert status(await here.call("GET", "/a")) == 200
        body = b"ok" if b"Content-Length" in request_ else b""
        answer = await here.raw(request_ + b"Host: a\r\nX-Api-Key: acme\r\n\r\n" + body)
        assert status(answer) == answered
        assert api.requests == sent
        assert len(await here.events()) == 2  # one per request, also after a retry
