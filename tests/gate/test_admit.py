"""reserve and decide: what is charged, refused, shed, deferred and allowed without Redis."""

import json

import pytest

from sidecar.core.identity import key_digest
from sidecar.core.kinds import ConcurrencyLimit
from sidecar.core.model import RequestClass
from sidecar.core.overload.shedder import Shedder
from sidecar.core.reasons import Reason
from sidecar.gate import Admission, Deferred, Refused
from tests.support.builders import SECRET, a_book, a_plan, a_quota, a_rate, a_request
from tests.support.gate_stage import GateStage, UnavailableStore, an_outcome


async def test_an_admission_charges_and_is_in_flight_until_it_is_settled() -> None:
    stage = GateStage()
    admission = await stage.allowed()
    assert (await stage.used(), stage.shedder.in_flight) == ((1,), 1)
    assert stage.gate.settle(admission, an_outcome()) == "ok"
    assert (await stage.used(), stage.shedder.in_flight) == ((1,), 0)


async def test_I2_a_refusal_is_free_and_names_its_limit() -> None:
    stage = GateStage()
    for _ in range(2):
        stage.gate.settle(await stage.allowed(), an_outcome())
    refused = await stage.refused()
    assert (refused.refusal.status, refused.refusal.reason) == (429, Reason.QUOTA)
    assert refused.decision is not None
    assert [one.claim.limit.id for one in refused.decision.violated] == ["monthly"]
    assert (await stage.used(), stage.shedder.in_flight) == ((2,), 0)


async def test_I3_a_critical_request_is_allowed_beyond_the_quota() -> None:
    stage = GateStage()
    for _ in range(3):
        admission = await stage.allowed(a_request(b"/login"))
    assert admission.decision.reason == Reason.CRITICAL
    assert (await stage.used())[0] == 3


async def test_the_critical_guard_refuses_abuse() -> None:
    guard = a_rate(1, id="critical", meter="calls")
    stage = GateStage(a_book(a_plan(critical_guard=guard)))
    await stage.allowed(a_request(b"/login"))
    assert (await stage.refused(a_request(b"/login"))).refusal.reason == Reason.ABUSE


async def test_a_slot_is_free_again_after_the_settlement() -> None:
    stage = GateStage(a_book(a_plan(ConcurrencyLimit("in-flight", 1))))
    admission = await stage.allowed()
    assert (await stage.refused()).refusal.reason == Reason.CONCURRENCY
    stage.gate.settle(admission, an_outcome())
    assert (await stage.allowed()).stays_open


async def test_an_overloaded_api_sheds_but_serves_critical_requests() -> None:
    stage = GateStage(shedder=Shedder(fixed=1))
    admission = await stage.allowed()
    refused = await stage.refused()
    assert (refused.refusal.status, refused.refusal.reason) == (503, Reason.SHED)
    assert refused.refusal.problem["still_available"] == ["/login"]
    assert await stage.used() == (1,)
    await stage.allowed(a_request(b"/login"))
    stage.gate.settle(admission, an_outcome())


@pytest.mark.parametrize(
    ("mode", "target", "allowed"),
    [
        ("deny", b"/items", False),
        ("local", b"/items", False),  # of a store without local shares
        ("allow", b"/items", True),
        ("deny", b"/login", True),
    ],
)
async def test_I3_without_redis_the_plan_decides_and_critical_requests_are_allowed(
    mode: str, target: bytes, allowed: bool
) -> None:
    stage = GateStage(a_book(a_plan(when_store_is_down=mode)), store=UnavailableStore)
    result = await stage.admit(a_request(target))
    if allowed:
        assert isinstance(result, Admission)
        assert (result.decision.reason, result.stays_open) == (Reason.STORE_DOWN, False)
    else:
        assert isinstance(result, Refused)
        assert result.refusal.reason == Reason.STORE_UNAVAILABLE
    assert stage.shedder.in_flight == allowed


async def test_a_full_spool_refuses_all_but_critical_requests() -> None:
    stage = GateStage()
    stage.spool.accepting = False
    assert (await stage.refused()).refusal.reason == Reason.SPOOL_FULL
    await stage.allowed(a_request(b"/login"))


async def test_a_request_that_may_be_deferred_is_recorded_once_it_is_queued() -> None:
    stage = GateStage(a_book(a_plan(a_quota(0))), record_refusals=True)
    deferred = await stage.admit(a_request(b"/export"), may_defer=lambda *_: True)
    assert isinstance(deferred, Deferred)
    assert (deferred.refusal.status, stage.counts()) == (429, {})
    stage.gate.record_deferred(deferred)
    assert (stage.counts(), stage.spool.events) == ({("export", Reason.DEFERRED): 1}, [])
    refused = stage.gate.refuse(deferred, deferred.refusal)
    assert (refused.key, stage.counts()["export", Reason.QUOTA]) == (deferred.key, 1)
    assert isinstance(await stage.admit(may_defer=lambda *_: False), Refused)


async def test_a_job_is_deferrable_and_can_be_given_back() -> None:
    stage = GateStage()
    job = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(job, Admission)
    assert job.entitlement.route.request_class is RequestClass.DEFERRABLE
    assert (job.stays_open, await stage.used()) == (True, (1,))
    stage.gate.abandon(job)
    assert (await stage.used(), stage.shedder.in_flight, stage.spool.events) == ((0,), 0, [])


async def test_a_job_is_not_allowed_without_redis() -> None:
    stage = GateStage(a_book(a_plan(when_store_is_down="allow")), store=UnavailableStore)
    job = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(job, Refused)
    assert (job.refusal.reason, stage.shedder.in_flight) == (Reason.STORE_UNAVAILABLE, 0)


async def test_a_job_has_an_event_that_names_it() -> None:
    stage = GateStage()
    job = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(job, Admission)
    job.job = "job-1"
    stage.gate.settle(job, an_outcome())
    [event] = stage.spool.events
    assert json.loads(json.dumps(event))["data"]["job"] == "job-1"
