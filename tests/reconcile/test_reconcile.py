"""Counters in a real Valkey and events in a real spool: equal at rest, or explained."""

import asyncio
import struct
import time

import pytest

from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Pack
from sidecar.core.periods import window_at
from sidecar.core.shares import NEVER_SEEN
from sidecar.gate import Admission
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from sidecar.stores.inspector import Inspector
from sidecar.stores.local.journal import SUFFIX
from sidecar.stores.local.journal_format import (
    Entry,
    JournalHeader,
    Owner,
    entry_line,
    header_line,
    owner_line,
)
from tests.support.reconcile_stage import Stage, causes, counters, difference_lines, plans_text

STATE = keys.state("qs", "acme")


async def test_I5_counters_are_the_sum_of_the_events(stage: Stage) -> None:
    await stage.send("GET /", 3)
    await stage.send("GET /dear", 2, key="k2")
    await stage.send("POST /chat", 2, tokens=40)
    await stage.send("POST /chat", tokens=300)
    await stage.send("POST /chat")  # no actual cost in the response: the estimate counts
    await stage.send("GET /dear", 4, status=503)  # refunded
    await stage.send("GET /", 7, account="fred")
    comparisons = stage.reconcile()
    assert causes(comparisons) == {}
    assert counters(comparisons) == {
        "monthly": 17, "per-key/k1": 7, "per-key/k2": 10, "tokens": 480, "fred monthly": 7
    }  # fmt: skip


async def test_I5_holds_beyond_a_quota_with_critical_and_refused_requests(stage: Stage) -> None:
    assert await stage.send("GET /", 60) == 50
    assert await stage.send("POST /login", 5) == 5
    assert await stage.send("POST /chat", 3, tokens=900) == 0
    comparisons = stage.reconcile()
    assert causes(comparisons) == {}
    assert counters(comparisons)["monthly"] == 55


async def test_I5_holds_with_grants_that_pay_a_part(stage: Stage) -> None:
    await stage.send("GET /", 48)
    buy(stage)
    await stage.send("GET /dear", 3)
    comparisons = stage.reconcile()
    assert causes(comparisons) == {"monthly": {"paid_by_grants": -13}}
    assert difference_lines(comparisons)[0].endswith("counter 50, events 63: -13 paid by grants")
    assert not comparisons["acme"].unexplained


def buy(stage: Stage) -> None:
    with Admin(stage.url, "qs") as admin:
        account = stage.gate.book.accounts["acme"]
        admin.grant(account, Pack("boost", "monthly", "requests", 100, "month"), "order-1")


async def test_a_grant_explains_nothing_while_the_plans_own_units_last(stage: Stage) -> None:
    await stage.send("GET /", 48)
    buy(stage)
    await stage.send("GET /dear", 2)
    set_used(stage, "q/monthly", 40)
    assert causes(stage.reconcile()) == {"monthly": {"lost": -18}}


async def test_grants_explain_what_they_paid_before_a_move_to_a_larger_quota(stage: Stage) -> None:
    await stage.send("GET /", 50)
    buy(stage)
    await stage.send("GET /", 3)
    former = stage.plans.with_name("former.yaml")
    former.write_text(stage.plans.read_text())
    stage.reload(plans_text().replace("id: acme, plan: pro", "id: acme, plan: free"))
    assert causes(stage.reconcile(former=[former])) == {"monthly": {"paid_by_grants": -3}}
    await stage.send("GET /", 20)
    assert causes(stage.reconcile(former=[former])) == {"monthly": {"paid_by_grants": -3}}
    set_used(stage, "q/monthly", 60)
    assert causes(stage.reconcile(former=[former])) == {
        "monthly": {"paid_by_grants": -3, "lost": -10}
    }
    set_used(stage, "q/monthly", 40)  # less than any plan's own units: grants paid nothing
    assert causes(stage.reconcile(former=[former])) == {"monthly": {"lost": -33}}


def set_used(stage: Stage, field: str, used: int) -> None:
    packed = stage.client.hget(STATE, field)
    assert isinstance(packed, bytes)
    stage.client.hset(STATE, field, struct.pack("<d", used) + packed[8:])  # type: ignore[arg-type]


async def test_open_reservations_explain_requests_in_flight(stage: Stage) -> None:
    await stage.send("GET /", 2)
    admissions = [await stage.admit("GET /dear") for _ in range(2)]
    comparisons = stage.reconcile()
    assert causes(comparisons) == {"monthly": {"in_flight": 10}, "per-key/k1": {"in_flight": 10}}
    assert "+10 reserved by 2 requests in flight" in difference_lines(comparisons)[0]
    for one in admissions:
        assert isinstance(one, Admission)
        stage.settle(one)
    await stage.flush()
    assert causes(stage.reconcile()) == {}


async def test_an_event_that_comes_during_the_wait_explains_its_charge(stage: Stage) -> None:
    """Of requests whose reservation does not stay open, only the event shows that they exist."""
    await stage.send("GET /", 2, account="fred")
    admission = await stage.admit("GET /dear", account="fred")
    assert isinstance(admission, Admission)
    assert causes(stage.reconcile()) == {"fred monthly": {"events_missing": 5}}
    loop = asyncio.get_running_loop()

    async def end() -> None:
        stage.settle(admission)
        await stage.flush()

    def wait() -> None:
        asyncio.run_coroutine_threadsafe(end(), loop).result()

    comparisons = await asyncio.to_thread(stage.reconcile, wait=wait)
    assert not comparisons["fred"].unexplained
    assert causes(comparisons) == {"fred monthly": {"late_events": 5}}
    assert causes(stage.reconcile()) == {}


async def test_pending_settlements_and_refunds_are_separate_causes(stage: Stage) -> None:
    chat, dear = await stage.admit("POST /chat"), await stage.admit("GET /dear")
    assert isinstance(chat, Admission)
    assert isinstance(dear, Admission)
    await stage.wire.stop()
    stage.settle(chat, tokens=30)
    stage.settle(dear, status=500)
    await stage.spool.flush()
    assert causes(stage.reconcile()) == {
        "monthly": {"refund_due": 5}, "per-key/k1": {"refund_due": 5}, "tokens": {"settling": 70}
    }  # fmt: skip


async def test_a_counter_that_lost_data_is_unexplained(stage: Stage) -> None:
    await stage.send("GET /", 9)
    stage.client.flushdb()
    await stage.send("GET /", 2)
    comparisons = stage.reconcile()
    assert causes(comparisons) == {"monthly": {"lost": -9}, "per-key/k1": {"lost": -9}}
    assert comparisons["acme"].unexplained
    assert (
        "counter 2, events 11: -9 LOST: counted before but not any more"
        in difference_lines(comparisons)[0]
    )


@pytest.mark.parametrize("later", [False, True])
async def test_a_journal_of_another_period_does_not_explain_lost_units(
    stage: Stage, later: bool
) -> None:
    limit = QuotaLimit("monthly", "requests", 50, "month", 50)
    owner = Owner(Account("acme", "pro"), "k1", (limit,), (NEVER_SEEN,))
    month = window_at(limit, owner.account, time.time_ns() // 1000)
    at_us = month.end if later else month.start - 1
    lines = (
        header_line(JournalHeader("0a", 1)),
        owner_line(0, owner),
        entry_line(Entry(1, 0, at_us, (20,))),
    )
    journal = stage.spool_path / "journal" / f"0a{SUFFIX}"
    journal.parent.mkdir()
    journal.write_bytes(b"".join(lines))
    await stage.send("GET /", 9)
    stage.client.flushdb()
    await stage.send("GET /", 2)
    assert causes(stage.reconcile()) == {"monthly": {"lost": -9}, "per-key/k1": {"lost": -9}}


async def test_an_account_that_redis_lost_entirely_is_unexplained(stage: Stage) -> None:
    await stage.send("GET /", 3, account="fred")
    stage.client.flushdb()
    assert causes(stage.reconcile()) == {"fred monthly": {"lost": -3}}


async def test_missing_events_are_unexplained(stage: Stage) -> None:
    await stage.send("GET /", 9)
    segment = next(stage.spool_path.glob("*.jsonl"))
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[4:]))
    comparisons = stage.reconcile()
    assert causes(comparisons) == {
        "monthly": {"events_missing": 4}, "per-key/k1": {"events_missing": 4}
    }  # fmt: skip
    assert "counter 9, events 5: +4 EVENTS MISSING" in difference_lines(comparisons)[0]


async def test_copies_of_an_event_count_once_across_files(stage: Stage) -> None:
    await stage.send("GET /", 5)
    (segment,) = stage.spool_path.glob("*.jsonl")
    shipped = stage.spool_path.parent / "usage.jsonl"
    shipped.write_bytes(segment.read_bytes() * 3)
    assert causes(stage.reconcile(stage.spool_path, shipped)) == {}
    assert causes(stage.reconcile(shipped)) == {}


async def test_one_account_can_be_compared_alone(stage: Stage) -> None:
    await stage.send("GET /", 2)
    await stage.send("GET /", 2, account="fred")
    stage.client.flushdb()
    assert causes(stage.reconcile(only="fred")) == {"fred monthly": {"lost": -2}}


async def test_an_invalid_field_is_reported_and_hides_no_other(stage: Stage) -> None:
    await stage.send("GET /", 2)
    stage.client.hset(STATE, "q/monthly", b"garbage")
    comparisons = stage.reconcile()
    assert list(causes(comparisons)) == ["monthly"]
    assert comparisons["acme"].unexplained
    assert (
        "UNREADABLE: field q/monthly in the state of the account"
        in difference_lines(comparisons)[0]
    )


# Another version of the plan file

UNLIMITED = ("- {id: monthly, meter: requests, quota: 50/month, at: {100%: reject}}", "")


async def test_a_limit_removed_from_the_plan_is_explained(stage: Stage) -> None:
    await stage.send("GET /", 4)
    without_limit = plans_text(("      " + UNLIMITED[0] + "\n", ""))
    stage.reload(without_limit)
    await stage.send("GET /", 2)
    comparisons = stage.reconcile()
    assert causes(comparisons) == {"monthly": {"plan_changed": 4}}
    assert not comparisons["acme"].unexplained


async def test_the_former_plan_file_removes_the_uncertainty(stage: Stage) -> None:
    await stage.send("GET /", 4)
    former = stage.plans.with_name("former.yaml")
    former.write_text(stage.plans.read_text())
    stage.reload(plans_text(("      " + UNLIMITED[0] + "\n", "")))
    await stage.send("GET /", 2)
    assert causes(stage.reconcile(former=[former])) == {}
    set_used(stage, "q/monthly", 7)
    assert causes(stage.reconcile(former=[former])) == {"monthly": {"events_missing": 3}}


async def test_lost_units_of_a_limit_younger_than_its_period_are_uncertain(stage: Stage) -> None:
    stage.reload(plans_text(("      " + UNLIMITED[0] + "\n", "")))
    await stage.send("GET /", 4)
    stage.plans.with_name("former.yaml").write_text(stage.plans.read_text())
    stage.reload(plans_text())
    await stage.send("GET /", 2)
    (lost,) = (one for one in stage.reconcile()["acme"].counters if one.causes)
    assert (lost.usage.limit.id, lost.difference, lost.uncertain) == ("monthly", -4, 4)
    assert causes(stage.reconcile(former=[stage.plans.with_name("former.yaml")])) == {}


async def test_a_counter_without_a_limit_is_listed_and_not_compared(stage: Stage) -> None:
    await stage.send("GET /", 4)
    stage.reload(plans_text(("per-key", "by-key")))
    with Inspector(stage.url, "qs") as inspector:
        reconciler = stage.reconciler(inspector, [])
        reconciler.start()
    assert reconciler.without_limit == [("acme", "q/per-key/k1")]
