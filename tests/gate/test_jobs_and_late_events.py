"""Deferred jobs, refunds, outages and late overage: what one request must not take from others."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from sidecar.core.identity import key_digest
from sidecar.core.kinds import MICRO, ConcurrencyLimit
from sidecar.core.model import PlanBook
from sidecar.core.reasons import Reason
from sidecar.core.settlement import OutcomeReason
from sidecar.errors import StoreUnavailable
from sidecar.gate import Admission, Refused
from sidecar.stores.memory import MemoryLimitStore
from sidecar.waiting.room import WaitingRoom
from tests.support.builders import SECRET, a_book, a_plan, a_quota, a_rate, a_request
from tests.support.gate_stage import GateStage, UnavailableStore, an_outcome

REFUNDS = frozenset({"upstream_refused"})
AFTER_LEASE_US = 31 * MICRO


def with_late_overage(book: PlanBook) -> PlanBook:
    """The book, with entitlements whose overage is known only after the settlement."""
    late = {
        name: replace(one, stays_open=True, late_overage=True)
        for name, one in book.entitlements.items()
    }
    return replace(book, entitlements=late)


def data_of_events(stage: GateStage) -> list[dict[str, Any]]:
    read = (json.loads(one) if isinstance(one, bytes) else one for one in stage.spool.events)
    return [one["data"] for one in read]


async def test_a_request_with_late_overage_leaves_the_count_of_the_spool_once() -> None:
    stage = GateStage(with_late_overage(a_book()))
    first, second = await stage.allowed(), await stage.allowed()
    stage.gate.settle(first, an_outcome())
    assert stage.spool.in_flight[0] == 1
    stage.gate.settle(second, an_outcome())
    assert stage.spool.in_flight[0] == 0


class BilledStore(MemoryLimitStore):
    """Notes which settlements are those of requests with a bill."""

    billed: tuple[bool, ...] = ()

    def settle(self, *args: Any, **options: Any) -> None:
        self.billed = (*self.billed, options.get("billed", True))
        super().settle(*args, **options)


async def test_I11_a_refunded_request_takes_no_overage_that_a_bill_must_have() -> None:
    quota = a_quota(1, cap=9)
    book = with_late_overage(a_book(a_plan(quota, refunds=REFUNDS)))
    stage = GateStage(book, store=BilledStore)
    stage.gate.settle(await stage.allowed(), an_outcome())
    refused = an_outcome(502, OutcomeReason.UPSTREAM_REFUSED)
    stage.gate.settle(await stage.allowed(), refused)
    assert stage.store.billed == (True, False)  # type: ignore[attr-defined]
    assert [one["billable"] for one in data_of_events(stage)] == [True, False]


async def test_a_job_that_only_a_rate_limits_has_an_event_that_names_it() -> None:
    stage = GateStage(a_book(a_plan(a_rate(9))))
    job = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(job, Admission)
    job.job = "job-1"
    stage.gate.settle(job, an_outcome())
    [data] = data_of_events(stage)
    assert data["job"] == "job-1"


async def test_a_job_whose_sidecar_died_costs_nothing_although_a_request_does() -> None:
    book = with_late_overage(a_book(a_plan(a_quota(9), orphans="charge")))
    stage = GateStage(book)
    await stage.allowed()
    assert isinstance(await stage.admit(job_of=key_digest(SECRET)), Admission)
    assert await stage.used() == (2,)
    stage.clock.us += AFTER_LEASE_US
    await stage.allowed()
    assert await stage.used() == (2,)


async def test_I11_a_job_that_is_given_back_leaves_others_no_overage() -> None:
    stage = GateStage(a_book(a_plan(a_quota(1, cap=9), orphans="charge")))
    job = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(job, Admission)
    other = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(other, Admission)
    stage.gate.settle(other, an_outcome())
    stage.gate.abandon(job)
    [data] = data_of_events(stage)
    assert (data["overage"], await stage.used()) == ({"requests": 0}, (1,))


class LocalStore(MemoryLimitStore):
    """A store in local mode: it answers requests alone, unless that is not wanted."""

    async def reserve(self, *args: Any, **options: Any) -> Any:
        if options["when_down"] == "deny":
            raise StoreUnavailable("Redis is unavailable")
        return (await super().reserve(*args, **options))._replace(local=True)


async def test_local_mode_runs_no_job() -> None:
    stage = GateStage(a_book(a_plan(when_store_is_down="local")), store=LocalStore)
    await stage.allowed()
    job = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(job, Refused)
    assert job.refusal.reason is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize(("store", "answers"), [(LocalStore, 0), (MemoryLimitStore, 1)])
async def test_answers_of_local_mode_are_not_response_times_of_redis(
    store: type[MemoryLimitStore], answers: int
) -> None:
    stage = GateStage(a_book(a_plan(when_store_is_down="local")), store=store)
    await stage.allowed()
    assert len(stage.store_times) == answers


async def test_a_full_spool_gets_no_events_of_refusals() -> None:
    stage = GateStage(record_refusals=True)
    stage.spool.accepting = False
    assert (await stage.refused()).refusal.reason is Reason.SPOOL_FULL
    assert stage.spool.events == []


async def test_a_request_that_waits_into_an_outage_has_no_period_in_its_event() -> None:
    room = WaitingRoom(max_requests=10, max_bytes=1_000)
    slot = ConcurrencyLimit("in-flight", 1, max_wait_us=5 * MICRO)
    plan = a_plan(slot, a_quota(9), when_store_is_down="allow")
    stage = GateStage(a_book(plan), store=UnavailableStore, room=room)
    stage.store.down = False  # type: ignore[attr-defined]
    first = await stage.allowed()
    waiter = asyncio.create_task(stage.admit(a_request()))
    while not room.waiting:
        await asyncio.sleep(0)
    stage.store.down = True  # type: ignore[attr-defined]
    stage.gate.settle(first, an_outcome())
    second = await waiter
    assert isinstance(second, Admission)
    assert second.decision.reason is Reason.STORE_DOWN
    stage.gate.settle(second, an_outcome())
    in_time, blind = data_of_events(stage)
    assert "periods" in in_time
    assert "periods" not in blind
