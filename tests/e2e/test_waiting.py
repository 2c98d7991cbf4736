"""Requests that wait instead of being refused, over real sockets and a real Valkey."""

import asyncio
import hashlib

import pytest

from sidecar.serve.app import App
from tests.support.http.raw_ends import Ends
from tests.support.stage import Stage, StartStage, problem, status

PLANS = """
version: 1
meters: {{requests: {{unit: request}}}}
routes:
  - {{id: login, match: "POST /login", class: critical}}
  - {{id: rest, match: "/**"}}
plans:
  paced:
    limits: [{{id: per-second, meter: requests, rate: 20/s, burst: 2, max_wait: 30s}}]
  slow:
    limits: [{{id: per-minute, meter: requests, rate: 1/min, max_wait: 5m}}]
  slots:
    limits: [{{id: in-flight, concurrency: 1, max_wait: 30s}}]
accounts:
  - {{id: paced, plan: paced, keys: [{{id: k1, sha256: {paced}}}]}}
  - {{id: slow, plan: slow, keys: [{{id: k1, sha256: {slow}}}]}}
  - {{id: slots, plan: slots, keys: [{{id: k1, sha256: {slots}}}]}}
"""
REQUEST = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: slots\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TIMEOUT_S = 30


async def plan_for(started: Stage) -> Stage:
    """Give the sidecar the plans above."""
    digests = {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("paced", "slow", "slots")
    }
    started.plans.write_text(PLANS.format(**digests))
    await started.app.keeper.reload()
    return started


@pytest.fixture
async def here(stage: StartStage) -> Stage:
    return await plan_for(await stage(expect_timeout_s="0.05"))


async def waiting(app: App, number: int) -> None:
    """Return when so many requests wait."""
    async with asyncio.timeout(TIMEOUT_S):
        while app.room.waiting != number:
            await asyncio.sleep(0.01)


async def waited_or_waiting(app: App, number: int) -> None:
    """Return when so many requests wait or have waited."""
    async with asyncio.timeout(TIMEOUT_S):
        while app.room.waiting + sum(app.room.ended.values()) < number:
            await asyncio.sleep(0.001)


async def forwarded(here: Stage, number: int) -> None:
    """Return when the API has received so many requests."""
    async with asyncio.timeout(TIMEOUT_S):
        while here.upstream.received.count(b"HTTP/1.1\r\n") < number:
            await asyncio.sleep(0.01)


def queued_ms(answer: bytes) -> int | None:
    """Return X-Queued-Ms; None without it."""
    _, found, rest = answer.partition(b"\r\nX-Queued-Ms: ")
    return int(rest.partition(b"\r\n")[0]) if found else None


async def test_a_burst_waits_and_is_forwarded_in_order(here: Stage) -> None:
    requests = []
    for n in range(8):
        requests.append(asyncio.ensure_future(here.call("GET", f"/n{n}", "paced")))
        await (forwarded(here, n + 1) if n < 2 else waited_or_waiting(here.app, n - 1))
    answers = await asyncio.gather(*requests)
    assert [status(answer) for answer in answers] == [200] * 8
    positions = [here.upstream.received.index(b"GET /n%d " % n) for n in range(8)]
    assert positions == sorted(positions)
    assert queued_ms(answers[0]) is None
    spans = [queued_ms(answer) for answer in answers[2:]]
    assert all(ms is not None and ms > 0 for ms in spans)
    assert b"\r\nServer-Timing: queued;dur=%d\r\n" % spans[0] in answers[2]
    assert here.app.room.ended["served"] == 6
    assert len([e for e in await here.events() if e["type"] == "api.request.v1"]) == 8


async def test_I3_a_critical_request_passes_waiting_ones(here: Stage) -> None:
    assert status(await here.call("GET", "/a", "slow")) == 200
    waiter = asyncio.ensure_future(here.call("GET", "/b", "slow"))
    await waiting(here.app, 1)
    answer = await here.call("POST", "/login", "slow", Content_Length="0")
    assert (status(answer), queued_ms(answer)) == (200, None)
    assert here.app.room.waiting == 1
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)


async def test_the_client_may_refuse_to_wait(here: Stage) -> None:
    assert status(await here.call("GET", "/a", "slow")) == 200
    refused = await here.call("GET", "/b", "slow", Prefer="handling=strict, wait=0")
    assert status(refused) == 429
    assert problem(refused)["violated-policies"] == ["per-minute"]
    assert queued_ms(refused) is None
    assert (await here.call("GET", "/b", "slow", Prefer="wait=1")).startswith(b"HTTP/1.1 429")


async def test_a_slot_goes_to_a_waiting_request_when_its_request_ends(stage: StartStage) -> None:
    ends = Ends()
    await ends.start()
    here = await plan_for(await stage(upstream=ends.url))
    first, second = await ends.client(here), await ends.client(here)
    await first.send(REQUEST)
    upstream = await ends.upstream()
    await upstream.head()
    await second.send(REQUEST)
    await waiting(here.app, 1)
    await upstream.send(RESPONSE)
    assert status(await first.answer()) == 200
    await upstream.head()  # on the same connection
    await upstream.send(RESPONSE)
    answer = await second.answer()
    assert (status(answer), (queued_ms(answer) or 0) > 0) == (200, True)
    await ends.stop()


@pytest.mark.parametrize("head", [
    b"GET /b HTTP/1.1\r\nHost: a\r\nX-Api-Key: slow\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: a\r\nX-Api-Key: slow\r\nContent-Length: 900000\r\n\r\nbegun",
    b"POST /b HTTP/1.1\r\nHost: a\r\nX-Api-Key: slow\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nbegun",
])  # fmt: skip
async def test_a_client_that_leaves_ends_its_wait(here: Stage, head: bytes) -> None:
    assert status(await here.call("GET", "/a", "slow")) == 200
    _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(head)
    await waiting(here.app, 1)
    writer.close()
    await waiting(here.app, 0)
    assert here.app.room.ended["gone"] == 1
    assert here.app.room.bytes == 0
    assert b"/b" not in here.upstream.received


async def test_100_continue_is_sent_after_the_wait(here: Stage) -> None:
    for _ in range(2):
        assert status(await here.call("GET", "/a", "paced")) == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(
        b"POST /up HTTP/1.1\r\nHost: a\r\nX-Api-Key: paced\r\nContent-Length: 4\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    async with asyncio.timeout(TIMEOUT_S):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        assert here.app.room.waiting == 0
        writer.write(b"body")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_draining_answers_waiting_requests(here: Stage) -> None:
    assert status(await here.call("GET", "/a", "slow")) == 200
    waiters = [asyncio.ensure_future(here.call("GET", "/b", "slow")) for _ in range(3)]
    await waiting(here.app, 3)
    here.app.room.close()
    for answer in await asyncio.gather(*waiters):
        assert status(answer) == 503
        assert problem(answer)["title"] == "Shutting down"
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert queued_ms(answer) is not None
    assert here.app.room.ended["drained"] == 3


async def test_a_reload_does_not_affect_waiting_requests(here: Stage) -> None:
    for _ in range(2):
        assert status(await here.call("GET", "/a", "paced")) == 200
    waiters = [asyncio.ensure_future(here.call("GET", "/b", "paced")) for _ in range(5)]
    await here.app.keeper.reload()
    assert [status(answer) for answer in await asyncio.gather(*waiters)] == [200] * 5
