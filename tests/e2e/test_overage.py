"""The overage of the events is what was used beyond plan and packs, with costs that come late."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar.commands.serve import is_compiled
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from tests.support.processes import until
from tests.support.stage import Stage, StartStage, status
from tests.support.stores.wire_ends import Server, a_server

ACCOUNTS = ("fixed", "late", "critical", "refunded", "keyed", "nested")
PLANS = """
version: 1
meters:
  requests: {unit: request}
  tokens:
    unit: token
    reserve: {json: max_tokens, default: 10}
    settle: {json: usage.total_tokens}
routes:
  - {id: login, match: "POST /login", class: critical}
  - {id: chat, match: "POST /chat", cost: {tokens: reserve}}
  - {id: rest, match: "/**"}
plans:
  soft:
    refund: [upstream_5xx]
    limits:
      - {id: requests, meter: requests, quota: 100/month, at: {100%: overage, 1000%: reject}}
      - {id: tokens, meter: tokens, quota: 100/month, at: {100%: overage, 1000%: reject}}
  plain:
    limits:
      - {id: requests, meter: requests, quota: 100/month, at: {100%: overage, 1000%: reject}}
      - {id: tokens, meter: tokens, quota: 100/month, at: {100%: overage, 1000%: reject}}
  keyed:
    limits:
      - {id: tokens, meter: tokens, quota: 100/month, per: key, at: {100%: overage, 1000%: reject}}
  nested:
    limits:
      - {id: daily, meter: tokens, quota: 50/day, at: {100%: overage}}
      - {id: monthly, meter: tokens, quota: 80/month, at: {100%: overage}}
  hard:
    limits:
      - {id: requests, meter: requests, quota: 100/month}
packs:
  boost: {meter: tokens, limit: tokens, units: 30, lasts: month, price: 5 USD}
accounts:
"""
PLAN_OF = {"refunded": "soft", "critical": "hard", "keyed": "keyed", "nested": "nested"}


def plans_text() -> str:
    lines = []
    for name in ACCOUNTS:
        keys = ", ".join(
            f"{{id: {key}, sha256: {hashlib.sha256(secret.encode()).hexdigest()}}}"
            for key, secret in (("k1", name), ("k2", f"{name}2"))
        )
        lines.append(f"  - {{id: {name}, plan: {PLAN_OF.get(name, 'plain')}, keys: [{keys}]}}\n")
    return PLANS + "".join(lines)


@dataclass
class Api:
    """An API that reports the cost that its request asks for; each answer waits for `go`."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    received: int = 0
    code: int = 200
    breaks: bool = False  # it closes the connection instead of an answer
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                body = await reader.readexactly(length)
                self.received += 1
                await self.go.wait()
                if self.breaks:
                    return
                tokens = json.loads(body)["n"] if body else 0
                answer = json.dumps({"usage": {"total_tokens": tokens}}).encode()
                writer.write(
                    b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                    % (self.code, len(answer))
                    + answer
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    api.go.set()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.port = server.sockets[0].getsockname()[1]
    yield api
    server.close()


@pytest.fixture
def plans(tmp_path: Path) -> str:
    path = tmp_path / "overage.yaml"
    path.write_text(plans_text())
    return str(path)


@pytest.fixture
async def here(stage: StartStage, api: Api, plans: str) -> Stage:
    return await stage(plans=plans, upstream=f"http://127.0.0.1:{api.port}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path, "--appendonly", "yes") as server:
        yield server


async def chat(here: Stage, cost: int, estimate: int = 10, key: str = "late") -> int:
    body = json.dumps({"n": cost, "max_tokens": estimate}).encode()
    return status(
        await here.raw(
            b"POST /chat HTTP/1.1\r\nHost: a\r\nX-Api-Key: %b\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
        )
    )


async def sums(here: Stage, account: str, meter: str) -> tuple[int, int]:
    """Usage and overage of an account's events that are billed."""
    usage = overage = 0
    for event in await here.events():
        data = event["data"]
        if event.get("subject") != account or not data.get("billable"):
            continue
        assert all(units >= 0 for units in data["overage"].values())
        usage += data.get("usage", {}).get(meter, 0)
        overage += data["overage"].get(meter, 0)
    return usage, overage


async def billed(here: Stage, account: str, meter: str, usage: int, overage: int) -> None:
    """Assert that the events have these sums. On a busy machine Redis' answer may come late.

    The overage then follows in an event of its own.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + 20
    while (found := await sums(here, account, meter)) != (usage, overage):
        assert loop.time() < end, found
        await asyncio.sleep(0.01)


async def overages(here: Stage, account: str, meter: str = "tokens") -> list[int]:
    return [
        event["data"]["overage"][meter]
        for event in await here.events()
        if event["type"] == "api.request.v1" and event["subject"] == account
    ]


async def test_I11_01_overage_of_late_cost_not_reported(here: Stage) -> None:
    for cost in (50, 200, 30):
        assert await chat(here, cost) == 200
    assert await overages(here, "late") == [0, 150, 30]


async def test_I11_overage_cases_late(here: Stage) -> None:
    for cost in (90, 60, 5):
        assert await chat(here, cost) == 200
    await billed(here, "late", "tokens", 155, 55)


@pytest.mark.parametrize(
    ("cost", "estimate", "requests"),
    [(20, 10, 20), (5, 50, 10), (0, 60, 8), (60, 0, 8), (200, 200, 3)],
    ids=["latepar", "latebig", "free", "unestimated", "exact"],
)
async def test_I11_overage_cases_of_requests_at_once(
    here: Stage, api: Api, cost: int, estimate: int, requests: int
) -> None:
    api.go.clear()
    sent = [asyncio.ensure_future(chat(here, cost, estimate)) for _ in range(requests)]
    await until(lambda: api.received == requests)
    api.go.set()
    assert await asyncio.gather(*sent) == [200] * requests
    usage = cost * requests
    await billed(here, "late", "tokens", usage, max(0, usage - 100))


async def test_I11_overage_cases_fixed_and_crit(here: Stage) -> None:
    for _ in range(110):
        await here.call("GET", "/x", "fixed")
        await here.call("POST", "/login", "critical", Content_Length="0")
    await billed(here, "fixed", "requests", 110, 10)
    await billed(here, "critical", "requests", 110, 10)


async def test_I11_overage_cases_pack(here: Stage, api: Api, valkey_url: str) -> None:
    """A pack that is bought while a request is in flight pays for it."""
    book = here.app.gate.book
    for cost in (100, 5):
        assert await chat(here, cost) == 200
    api.go.clear()
    answer = asyncio.ensure_future(chat(here, 20, 1))
    await until(lambda: api.received == 3)
    with Admin(valkey_url, "qs") as admin:
        assert admin.grant(book.accounts["late"], book.packs["boost"], "order-1").new
    api.go.set()
    assert await answer == 200
    assert await chat(here, 40) == 200
    assert await overages(here, "late") == [0, 5, 0, 30]


async def test_I11_a_refunded_request_has_no_overage_and_counts_for_none(
    here: Stage, api: Api
) -> None:
    for _ in range(99):
        await here.call("GET", "/x", "refunded")
    api.code = 503
    for _ in range(5):
        await here.call("GET", "/x", "refunded")
    api.code = 200
    for _ in range(3):
        await here.call("GET", "/x", "refunded")
    await billed(here, "refunded", "requests", 102, 2)


async def test_I11_each_key_has_its_own_overage(here: Stage) -> None:
    for cost, key in ((90, "keyed"), (120, "keyed2"), (20, "keyed"), (1, "keyed2")):
        assert await chat(here, cost, 1, key) == 200
    assert await overages(here, "keyed") == [0, 20, 10, 1]


async def held_in_redis(
    here: Stage, api: Api, server: Server, answer: "asyncio.Future[Any]", received: int
) -> None:
    """Let the API respond, with a Redis that does not answer the settlement."""
    await until(lambda: api.received == received or answer.done())
    server.pause()
    api.go.set()
    await until(lambda: here.app.store.redis.settler.pending == 1)
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.fixture
async def patient(stage: StartStage, api: Api, plans: str, server: Server) -> Stage:
    """A sidecar that waits for Redis for a long time."""
    return await stage(
        plans=plans, upstream=f"http://127.0.0.1:{api.port}", redis=server.url,
        redis_timeout_ms="10000",
    )  # fmt: skip


async def test_I12_the_answer_waits_for_its_event_and_the_event_for_the_overage(
    patient: Stage, api: Api, server: Server
) -> None:
    assert await chat(patient, 90) == 200
    api.go.clear()
    answer = asyncio.ensure_future(chat(patient, 60))
    await held_in_redis(patient, api, server, answer, 2)
    assert not answer.done()
    assert len(await patient.events()) == 1
    server.go_on()
    assert await answer == 200
    assert await overages(patient, "late") == [0, 50]


async def test_I12_the_reply_to_a_failed_request_waits_for_its_event(
    patient: Stage, api: Api, server: Server
) -> None:
    api.go.clear()
    api.breaks = True
    answer = asyncio.ensure_future(chat(patient, 60))
    await held_in_redis(patient, api, server, answer, 1)
    assert not answer.done()
    assert await patient.events() == []
    server.go_on()
    assert await answer == 502
    [event] = await patient.events()
    assert (event["data"]["status"], event["data"]["usage"]) == (502, {"tokens": 0})


async def test_I4_a_client_that_leaves_while_its_event_waits_has_one_event(
    patient: Stage, api: Api, server: Server
) -> None:
    assert await chat(patient, 90) == 200
    api.go.clear()
    answer = asyncio.ensure_future(chat(patient, 60))
    await held_in_redis(patient, api, server, answer, 2)
    answer.cancel()
    await until(lambda: patient.app.data_port.connections == 0)
    server.go_on()
    await until(lambda: patient.app.store.redis.settler.pending == 0)
    assert await overages(patient, "late") == [0, 50]
    await billed(patient, "late", "tokens", 150, 50)
    assert await chat(patient, 5) == 200


@pytest.mark.skipif(is_compiled(), reason="what is compiled cannot be replaced")
async def test_an_event_that_cannot_be_recorded_is_an_internal_error(
    here: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("secret-detail")

    monkeypatch.setattr(type(here.app.spool), "append", fails)
    assert await chat(here, 5) == 500  # nothing of the API's response was sent
    monkeypatch.undo()
    assert "request_failed" in capsys.readouterr().out
    assert await chat(here, 5) == 200


async def test_I11_each_of_several_quotas_on_a_meter_has_its_overage(here: Stage) -> None:
    for cost in (40, 20, 50):
        assert await chat(here, cost, 1, "nested") == 200
    data = [event["data"] for event in await here.events()]
    assert [one.get("overage_by_limit") for one in data] == [
        None,
        {"daily": 10},
        {"daily": 50, "monthly": 30},
    ]
    assert [one["overage"]["tokens"] for one in data] == [0, 10, 50]


async def test_I11_overage_that_redis_reports_too_late_is_an_event_of_its_own(
    stage: StartStage, api: Api, plans: str, server: Server
) -> None:
    here = await stage(
        plans=plans, upstream=f"http://127.0.0.1:{api.port}", redis=server.url,
        redis_timeout_ms="100",
    )  # fmt: skip
    assert await chat(here, 90) == 200
    api.go.clear()
    answer = asyncio.ensure_future(chat(here, 60))
    await until(lambda: api.received == 2)
    server.pause()
    api.go.set()
    assert await answer == 200
    server.go_on()
    await until(lambda: here.app.store.redis.settler.pending == 0)
    first, second, later = [e for e in await here.events() if e.get("subject") == "late"]
    assert "overage_pending" not in first["data"]
    assert (second["data"]["overage"], second["data"]["overage_pending"]) == ({"tokens": 0}, True)
    assert (later["type"], later["id"]) == ("account.overage.v1", f"overage/{second['id']}")
    assert (later["time"], later["clock"]) == (second["time"], second["clock"])
    assert later["data"] == {
        "key": "k1", "plan": "plain", "plan_version": second["data"]["plan_version"],
        "route": "chat", "request": second["id"], "overage": {"tokens": 50},
        "overage_by_limit": {"tokens": 50}, "billable": True,
        "periods": second["data"]["periods"],
    }  # fmt: skip
    await billed(here, "late", "tokens", 150, 50)


async def test_I11_overage_cases_down(
    stage: StartStage, api: Api, plans: str, server: Server
) -> None:
    """One sidecar knows the overage without Redis; Redis charges it once."""
    here = await stage(plans=plans, upstream=f"http://127.0.0.1:{api.port}", redis=server.url)
    for _ in range(50):
        await here.call("GET", "/x", "fixed")
    for cost in (60, 10):
        assert await chat(here, cost) == 200
    server.kill()
    await until(lambda: not here.app.store.up)
    for _ in range(70):
        await here.call("GET", "/x", "fixed")
    for cost in (60, 10):
        assert await chat(here, cost) == 200
    await billed(here, "fixed", "requests", 120, 20)
    await billed(here, "late", "tokens", 140, 40)
    server.start()
    await until(lambda: here.app.store.up and not here.app.store.uncharged)
    await until(lambda: here.app.store.mode.outage is None)
    await here.call("GET", "/x", "fixed")
    assert await chat(here, 7) == 200
    await billed(here, "fixed", "requests", 121, 21)
    await billed(here, "late", "tokens", 147, 47)


async def test_I11_overage_of_several_sidecars_without_redis_is_reported_afterwards(
    stage: StartStage, api: Api, plans: str, server: Server
) -> None:
    """Each of them allows within its share, and none knows what the other allows."""
    flags: dict[str, Any] = {
        "plans": plans, "upstream": f"http://127.0.0.1:{api.port}", "redis": server.url,
    }  # fmt: skip
    one, two = [await stage(**flags) for _ in range(2)]
    for here in (one, two):
        assert await chat(here, 10) == 200
    server.kill()
    for here in (one, two):
        await until(lambda here=here: not here.app.store.up)
        for _ in range(6):
            assert await chat(here, 10) == 200
    server.start()
    for here in (one, two):
        await until(lambda here=here: here.app.store.up and not here.app.store.uncharged)
        await until(lambda here=here: here.app.store.mode.outage is None)
    assert await chat(one, 0) == 200
    reported = [await sums(here, "late", "tokens") for here in (one, two)]
    assert sum(usage for usage, _ in reported) == 140
    assert sum(overage for _, overage in reported) == 40


def rebuilt(sidecar: Any, here: Stage, plans: str, url: str) -> str:
    sources = ("--plans", plans, "--spool", here.spool, "--redis", url)
    done = sidecar("rebuild", *sources, "--apply")
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout)


async def test_I11_overage_between_a_loss_and_the_rebuild_is_billed(
    here: Stage, sidecar: Any, plans: str, valkey_url: str
) -> None:
    """The first request after the rebuild reports what no event has reported."""

    async def requests(times: int) -> None:
        for _ in range(times):
            assert await chat(here, 4, 1) == 200
            await here.call("GET", "/x", "fixed")

    await requests(100)
    await billed(here, "late", "tokens", 400, 300)
    with redis.Redis.from_url(valkey_url) as client:
        client.delete(keys.state("qs", "late"), keys.state("qs", "fixed"))
    await requests(100)
    await billed(here, "late", "tokens", 800, 600)
    await billed(here, "fixed", "requests", 200, 0)
    printed = await asyncio.to_thread(rebuilt, sidecar, here, plans, valkey_url)
    assert "400 → 800 (+400 units)" in printed
    assert "100 → 200 (+100 units)" in printed
    await requests(1)
    await billed(here, "late", "tokens", 804, 704)
    await billed(here, "fixed", "requests", 201, 101)
    again = await asyncio.to_thread(rebuilt, sidecar, here, plans, valkey_url)
    assert again.startswith("Nothing to rebuild")
    await requests(2)
    await billed(here, "late", "tokens", 812, 712)
    await billed(here, "fixed", "requests", 203, 103)


async def test_I11_packs_that_are_granted_again_pay_for_what_was_lost(
    here: Stage, sidecar: Any, plans: str, valkey_url: str
) -> None:
    book = here.app.gate.book

    def grant() -> None:
        with Admin(valkey_url, "qs") as admin:
            assert admin.grant(book.accounts["late"], book.packs["boost"], "order-1").new

    grant()
    for cost in (90, 50):
        await chat(here, cost)
    with redis.Redis.from_url(valkey_url) as client:
        client.delete(keys.state("qs", "late"))
    await chat(here, 20)
    grant()
    await asyncio.to_thread(rebuilt, sidecar, here, plans, valkey_url)
    await chat(here, 1)
    assert await overages(here, "late") == [0, 10, 0, 21]


async def test_I11_each_of_several_quotas_gets_its_overage_back(
    here: Stage, sidecar: Any, plans: str, valkey_url: str
) -> None:
    """50 a day and 80 a month on one meter: the event has the largest overage, and both by ID."""
    for _ in range(2):
        for cost in (40, 30):
            await chat(here, cost, key="nested")
        with redis.Redis.from_url(valkey_url) as client:
            client.delete(keys.state("qs", "nested"))
    await chat(here, 10, key="nested")
    await asyncio.to_thread(rebuilt, sidecar, here, plans, valkey_url)
    await chat(here, 0, key="nested")
    sums_by_limit: Counter[str] = Counter()
    for event in await here.events():
        sums_by_limit.update(event["data"].get("overage_by_limit", {}))
    assert sums_by_limit == {"daily": 150 - 50, "monthly": 150 - 80}
