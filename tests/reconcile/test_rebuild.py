"""Rebuild restores lost units from events, each once, while requests are in flight."""

import asyncio
import struct
from typing import Any

from sidecar.core.model import Pack
from sidecar.gate import Admission
from sidecar.reconcile.rebuild import rebuild
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from sidecar.stores.inspector import Inspector
from tests.support.reconcile_stage import Stage, causes, counters, difference_lines

STATE = keys.state("qs", "acme")
BEFORE_THE_LOSS = 1_000  # requests; far more than can be in flight or waiting for the disk


async def test_I5_a_flushed_redis_gets_its_counters_back(stage: Stage) -> None:
    await stage.send("GET /", 3)
    await stage.send("GET /dear", 2, key="k2")
    await stage.send("POST /chat", 2, tokens=40)
    await stage.send("GET /dear", status=503)
    await stage.send("GET /", 4, account="fred")
    before = counters(stage.reconcile())
    stage.client.flushdb()
    report = stage.rebuild()
    assert len(report.corrections) == 5
    comparisons = stage.reconcile()
    assert (causes(comparisons), counters(comparisons)) == ({}, before)
    assert stage.client.pttl(STATE) > 0


async def test_nothing_is_changed_without_apply(stage: Stage) -> None:
    await stage.send("GET /", 3)
    stage.client.flushdb()
    report = stage.rebuild(apply=False)
    assert [(one.comparison.usage.field, one.units) for one in report.corrections] == [
        ("q/monthly", 3), ("q/per-key/k1", 3)
    ]  # fmt: skip
    assert stage.client.dbsize() == 0


async def test_a_second_rebuild_changes_nothing(stage: Stage) -> None:
    await stage.send("GET /", 3)
    stage.client.flushdb()
    stage.rebuild()
    before = stage.client.hgetall(STATE)
    assert stage.rebuild().corrections == []
    assert stage.client.hgetall(STATE) == before


async def test_I1_requests_counted_since_the_loss_are_counted_once(stage: Stage) -> None:
    await stage.send("GET /", 40)
    stage.client.flushdb()
    await stage.send("GET /", 5)
    open_one = await stage.admit("GET /dear")
    stage.rebuild()
    assert causes(stage.reconcile()) == {
        "monthly": {"in_flight": 5},
        "per-key/k1": {"in_flight": 5},
    }
    assert await stage.send("GET /", 10) == 0, "50 are used"
    assert isinstance(open_one, Admission)
    stage.settle(open_one)
    await stage.flush()
    assert causes(stage.reconcile()) == {}


async def test_a_request_in_flight_during_the_loss_is_added_after_it_ends(
    stage: Stage,
) -> None:
    lost = await stage.admit("GET /dear")
    stage.client.flushdb()
    assert stage.rebuild().corrections == []
    assert isinstance(lost, Admission)
    stage.settle(lost)
    await stage.flush()
    stage.rebuild()
    comparisons = stage.reconcile()
    assert (causes(comparisons), counters(comparisons)) == ({}, {"monthly": 5, "per-key/k1": 5})


async def test_grants_that_are_made_again_pay_again(stage: Stage) -> None:
    account = stage.gate.book.accounts["acme"]
    pack = Pack("boost", "monthly", "requests", 100, "month")
    with Admin(stage.url, "qs") as admin:
        admin.grant(account, pack, "order-1")
        assert await stage.send("GET /dear", 14) == 14
        stage.client.flushdb()
        admin.grant(account, pack, "order-1")
    stage.rebuild()
    comparisons = stage.reconcile()
    assert causes(comparisons) == {"monthly": {"paid_by_grants": -20}}
    assert comparisons["acme"].stored.state.grants[0].used == 20
    assert counters(comparisons)["monthly"] == 50


async def test_a_counter_is_lowered_only_with_lower(stage: Stage) -> None:
    await stage.send("GET /", 9)
    segment = next(stage.spool_path.glob("*.jsonl"))
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[4:]))
    assert stage.rebuild().corrections == []
    assert counters(stage.reconcile())["monthly"] == 9
    assert [one.units for one in stage.rebuild(lower=True, apply=False).corrections] == [-4, -4]
    stage.rebuild(lower=True)
    comparisons = stage.reconcile()
    assert (causes(comparisons), counters(comparisons)["monthly"]) == ({}, 5)


class BusyInspector(Inspector):
    """An inspector of an account that has a request in flight as soon as it is rebuilt."""

    def rebuild(self, *arguments: Any) -> Any:
        done = super().rebuild(*arguments)
        if done.done:
            set_used(self.stage, "q/monthly", 8)
        return done

    stage: Stage


async def test_units_that_come_while_a_counter_is_lowered_stay(stage: Stage) -> None:
    """No reservation shows them: only a wait would show that they have an event, too."""
    await stage.send("GET /", 5, account="fred")
    set_used(stage, "q/monthly", 9)
    with BusyInspector(stage.url, "qs") as inspector:
        inspector.stage = stage
        reconciler = stage.reconciler(inspector, ())
        report = rebuild(reconciler, inspector, apply=True, lower=True, wait=lambda: None)
    assert [one.units for one in report.corrections] == [-4]
    assert counters(stage.reconcile())["fred monthly"] == 8


def set_used(stage: Stage, field: str, used: int) -> None:
    """Set a counter of fred."""
    name = keys.state("qs", "fred")
    packed = stage.client.hget(name, field)
    assert isinstance(packed, bytes)
    stage.client.hset(name, field, struct.pack("<d", used) + packed[8:])  # type: ignore[arg-type]


async def test_the_units_of_a_request_in_flight_are_never_lowered(stage: Stage) -> None:
    await stage.send("GET /", 2)
    await stage.admit("GET /dear")
    assert stage.rebuild(lower=True).corrections == []
    assert causes(stage.reconcile()) == {
        "monthly": {"in_flight": 5},
        "per-key/k1": {"in_flight": 5},
    }


async def test_only_the_selected_account_is_changed(stage: Stage) -> None:
    await stage.send("GET /", 2)
    await stage.send("GET /", 2, account="fred")
    stage.client.flushdb()
    stage.rebuild(only="fred")
    assert causes(stage.reconcile()) == {"monthly": {"lost": -2}, "per-key/k1": {"lost": -2}}


async def test_an_account_with_an_unknown_time_zone_is_not_changed(stage: Stage) -> None:
    await stage.send("GET /", 2)
    stage.client.flushdb()
    text = stage.plans.read_text()
    stage.plans.write_text(text.replace("id: acme, plan", "id: other, plan"))
    report = stage.rebuild()
    assert (report.corrections, report.unknown) == ([], ["acme"])
    assert stage.client.dbsize() == 0
    assert difference_lines(stage.reconcile())


async def test_I5_redis_is_flushed_and_rebuilt_under_load(stage: Stage) -> None:
    """Clients send requests during the rebuild.

    The rebuild restores never too much. A later rebuild, after the clients have stopped, restores
    the units of requests that were in flight.
    """
    stop, flushed = asyncio.Event(), asyncio.Event()
    sent = 0

    async def client(number: int) -> None:
        nonlocal sent
        while not stop.is_set():
            result = await stage.admit("GET /", account="fred", key=f"k{1 + number % 2}")
            assert isinstance(result, Admission)
            await asyncio.sleep(0)  # let other clients run while this request is in flight
            stage.settle(result)
            sent += 1
            if sent == BEFORE_THE_LOSS:
                await stage.spool.flush()
                stage.client.flushdb()
                flushed.set()

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    await flushed.wait()
    restored = await asyncio.to_thread(stage.rebuild)
    during = sent
    stop.set()
    await asyncio.gather(*clients)
    await stage.flush()
    assert during > BEFORE_THE_LOSS
    assert sum(one.units for one in restored.corrections) > 0
    (counter,) = stage.reconcile()["fred"].counters
    assert -BEFORE_THE_LOSS < counter.difference <= 0
    stage.rebuild()
    comparisons = stage.reconcile()
    assert (causes(comparisons), counters(comparisons)) == ({}, {"fred monthly": sent})
