"""settle and record: one event per forwarded request, notices once, and nothing lost in a fault."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sidecar.core.costs import HeaderSource
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Account
from sidecar.core.readings import Reading
from sidecar.core.reasons import Reason
from sidecar.core.settlement import OutcomeReason
from sidecar.stores.memory import MemoryLimitStore
from tests.support.builders import a_book, a_plan, a_quota, a_rate, a_request
from tests.support.gate_stage import START_US, GateStage, UnavailableStore, an_outcome

NOTICED = a_quota(4, notices=(50, 100))
REFUNDS = frozenset({"upstream_refused"})


def events(stage: GateStage, kind: str) -> list[dict[str, Any]]:
    """The events of one type."""
    read = (json.loads(one) if isinstance(one, bytes) else one for one in stage.spool.events)
    return [one for one in read if one["type"] == kind]


async def test_I4_a_forwarded_request_has_one_event_and_a_refused_one_none() -> None:
    stage = GateStage()
    for _ in range(2):
        stage.gate.settle(await stage.allowed(), an_outcome())
    await stage.refused()
    recorded = events(stage, "api.request.v1")
    assert [one["id"] for one in recorded] == ["id-1", "id-2"]
    assert recorded[0]["data"]["usage"] == {"requests": 1}
    assert len(stage.spool.events) == 2
    assert stage.counts() == {("rest", Reason.OK): 2, ("rest", Reason.QUOTA): 1}


async def test_refusals_are_events_if_that_is_wanted_and_the_key_is_known() -> None:
    stage = GateStage(a_book(a_plan(a_quota(0))), record_refusals=True)
    await stage.refused()
    await stage.refused(a_request(api_keys=[b"unknown"]))
    [refusal] = events(stage, "api.refusal.v1")
    assert (refusal["subject"], refusal["data"]["reason"]) == ("acme", "quota")
    assert refusal["data"]["billable"] is False


async def test_a_threshold_is_recorded_once_in_a_period() -> None:
    stage = GateStage(a_book(a_plan(NOTICED)))
    for _ in range(4):
        stage.gate.settle(await stage.allowed(), an_outcome())
    await stage.refused()
    percents = [one["data"]["percent"] for one in events(stage, "account.notice.v1")]
    assert percents == [50, 100]


async def test_a_settlement_that_crosses_a_threshold_records_it() -> None:
    book = a_book(a_plan(NOTICED))
    settles = (("requests", HeaderSource(b"x-requests")),)
    late = {
        name: replace(entitlement, settles=settles, stays_open=True)
        for name, entitlement in book.entitlements.items()
    }
    stage = GateStage(replace(book, entitlements=late))
    reading = Reading({"requests": 2}, {})
    stage.gate.settle(await stage.allowed(), an_outcome()._replace(reading=reading))
    [notice] = events(stage, "account.notice.v1")
    assert (notice["data"]["percent"], await stage.used()) == (50, (2,))


async def test_a_refunded_request_costs_nothing_and_is_not_billable() -> None:
    stage = GateStage(a_book(a_plan(refunds=REFUNDS)))
    admission = await stage.allowed()
    label = stage.gate.settle(admission, an_outcome(502, OutcomeReason.UPSTREAM_REFUSED))
    assert (label, await stage.used()) == ("upstream_refused", (0,))
    [event] = events(stage, "api.request.v1")
    assert event["data"]["billable"] is False


async def test_a_failure_of_the_sidecar_is_counted_as_one_and_recorded() -> None:
    stage = GateStage()
    label = stage.gate.settle(await stage.allowed(), an_outcome(500), internal_error=True)
    assert (label, len(stage.spool.events)) == ("internal-error", 1)


@pytest.mark.parametrize(
    ("quota", "target", "label"),
    [
        (a_quota(1), b"/login", Reason.CRITICAL),
        (a_quota(1, cap=9), b"/items", Reason.OVERAGE),
        (a_quota(9), b"/items", Reason.OK),
    ],
)
async def test_a_request_that_was_allowed_beyond_a_limit_is_counted_as_such(
    quota: QuotaLimit, target: bytes, label: Reason
) -> None:
    stage = GateStage(a_book(a_plan(quota)))
    stage.gate.settle(await stage.allowed(a_request(target)), an_outcome())
    admission = await stage.allowed(a_request(target))
    assert stage.gate.settle(admission, an_outcome()) == label
    assert stage.counts()[admission.entitlement.route.id, label] > 0


async def test_limits_in_shadow_are_counted() -> None:
    stage = GateStage(a_book(a_plan(a_quota(0, shadow=True))))
    await stage.allowed()
    assert stage.metrics.shadowed == {("free", "monthly"): 1}


async def test_each_decision_has_a_row() -> None:
    stage = GateStage(a_book(a_plan(a_rate(1))), with_rows=True)
    await stage.allowed()
    await stage.refused()
    await stage.refused(a_request(api_keys=[]))
    assert [(row.account, row.decision, row.remaining) for row in stage.rows] == [
        ("acme", "allow", "0 (per-second)"),
        ("acme", "429 rate", "0 (per-second)"),
        ("-", "401 no-credential", "-"),
    ]


async def test_a_fault_after_the_reservation_gives_it_back() -> None:
    stage = GateStage(a_book(a_plan(refunds=REFUNDS)), with_rows=True)

    def fail(_row: object) -> None:
        raise RuntimeError("the table is broken")

    stage.recorder.on_decision = fail
    with pytest.raises(RuntimeError, match="the table is broken"):
        await stage.admit()
    assert (await stage.used(), stage.shedder.in_flight, stage.spool.events) == ((0,), 0, [])


async def test_a_fault_of_the_store_leaves_nothing_in_flight() -> None:
    class BrokenStore(UnavailableStore):
        async def reserve(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("broken")

    stage = GateStage(store=BrokenStore)
    with pytest.raises(RuntimeError, match="broken"):
        await stage.admit()
    assert stage.shedder.in_flight == 0


async def test_an_outage_does_not_close_tunnels_and_a_used_up_quota_does() -> None:
    stage = GateStage(a_book(a_plan(closes_tunnels=True)), store=UnavailableStore)
    stage.store.down = False  # type: ignore[attr-defined]
    admission = await stage.allowed()
    assert await stage.gate.has_quota_left(admission)
    await stage.allowed()
    assert not await stage.gate.has_quota_left(admission)
    stage.store.down = True  # type: ignore[attr-defined]
    assert await stage.gate.has_quota_left(admission)


async def test_I3_a_used_up_quota_does_not_close_a_critical_tunnel() -> None:
    stage = GateStage(a_book(a_plan(a_quota(1), closes_tunnels=True)))
    critical = await stage.allowed(a_request(b"/login"))
    assert await stage.used() == (1,)
    assert await stage.gate.has_quota_left(critical)


async def test_03_huge_usage_is_capped_logged_and_marked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    book = a_book(a_plan(a_quota(2**50)))
    settles = (("requests", HeaderSource(b"x-requests")),)
    late = {
        name: replace(entitlement, settles=settles, caps=(("requests", 1_000),), stays_open=True)
        for name, entitlement in book.entitlements.items()
    }
    stage = GateStage(replace(book, entitlements=late))
    for reported in (2**53 - 1, 1_000, 7):
        outcome = an_outcome()._replace(reading=Reading({"requests": reported}, {}))
        stage.gate.settle(await stage.allowed(), outcome)
    data = [one["data"] for one in events(stage, "api.request.v1")]
    assert [one["usage"]["requests"] for one in data] == [1_000, 1_000, 7]
    assert [one.get("capped") for one in data] == [{"requests": 2**53 - 1}, None, None]
    assert "".join(capsys.readouterr()).count("settled_cost_capped") == 1
    assert stage.metrics.costs_capped == {("requests",): 1}
    assert (await stage.allowed()).decision.tightest.remaining == 2**50 - 2_007 - 1


class Asked(MemoryLimitStore):
    """Notes the number of requests in flight when it is asked."""

    spool: Any = None
    seen: Any = ()

    async def reserve(self, *args: Any, **options: Any) -> Any:
        self.seen = (*self.seen, self.spool.in_flight[0])
        return await super().reserve(*args, **options)


async def test_13_a_request_is_in_flight_from_before_its_reservation_to_its_event() -> None:
    stage = GateStage(a_book(a_plan(a_quota(2))), store=Asked)
    counts: list[int] = []
    append = stage.spool.append

    def noting(event: Any) -> None:
        counts.append(stage.spool.in_flight[0])
        append(event)

    stage.store.spool, stage.spool.append = stage.spool, noting  # type: ignore[attr-defined,method-assign]
    first, second = await stage.allowed(), await stage.allowed()
    await stage.refused()
    assert stage.store.seen == (1, 2, 3)  # type: ignore[attr-defined]
    assert stage.spool.in_flight[0] == 2
    stage.gate.settle(first, an_outcome())
    stage.gate.settle(second, an_outcome())
    assert counts == [2, 1]
    assert stage.spool.in_flight[0] == 0


async def test_13_nothing_stays_in_flight_that_is_refused_deferred_abandoned_or_fails() -> None:
    stage = GateStage(a_book(a_plan(a_quota(1), refunds=REFUNDS)))
    for target in (b"/gold", b"/../x"):
        await stage.refused(a_request(target))
    await stage.refused(a_request(api_keys=[b"unknown"]))
    stage.gate.abandon(await stage.allowed())
    stage.gate.settle(await stage.allowed(), an_outcome(), internal_error=True)
    await stage.admit(a_request(b"/export"), may_defer=lambda *_: True)
    await stage.refused()
    down = GateStage(store=UnavailableStore)
    await down.refused()

    class BrokenStore(MemoryLimitStore):
        async def reserve(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("broken")

    broken = GateStage(store=BrokenStore)
    with pytest.raises(RuntimeError):
        await broken.admit()
    assert [one.spool.in_flight[0] for one in (stage, down, broken)] == [0, 0, 0]


MONTH_US = 31 * 86_400 * MICRO
FREE = replace(
    a_book(),
    entitlements={name: replace(one, claims=()) for name, one in a_book().entitlements.items()},
)
NOW, A_MONTH_LATER = "2026-11-24T00:00:00.000Z", "2026-12-25T00:00:00.000Z"


class LocalStore(MemoryLimitStore):
    """A store that answers as local mode does."""

    async def reserve(self, *args: Any, **options: Any) -> Any:
        return (await super().reserve(*args, **options))._replace(local=True)


async def test_14_clock_an_event_has_the_time_of_redis_and_not_of_the_node() -> None:
    stage = GateStage(a_book(a_plan(NOTICED, a_rate(9))))
    stage.redis_ahead_us = MONTH_US
    stage.gate.settle(await stage.allowed(), an_outcome())
    await stage.allowed()
    [event] = events(stage, "api.request.v1")
    [notice] = events(stage, "account.notice.v1")
    for one in (event, notice):
        assert (one["time"], one["clock"]) == (A_MONTH_LATER, "redis")
    assert event["data"]["periods"] == {"monthly": "2026-12-01T00:00:00Z/2027-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("book", "store", "periods"),
    [
        (FREE, MemoryLimitStore, None),
        (a_book(a_plan(when_store_is_down="allow")), UnavailableStore, None),
        (a_book(), LocalStore, {"monthly": "2026-11-01T00:00:00Z/2026-12-01T00:00:00Z"}),
    ],
    ids=["no limits", "allowed without Redis", "local mode"],
)
async def test_14_clock_without_an_answer_the_event_names_the_clock_that_it_has(
    book: Any, store: Any, periods: dict[str, str] | None
) -> None:
    stage = GateStage(book, store=store)
    for known_us in (0, START_US + MONTH_US):
        stage.redis_us = known_us
        stage.gate.settle(await stage.allowed(), an_outcome())
    node, redis = events(stage, "api.request.v1")
    assert (node["time"], node["clock"]) == (NOW, "node")
    assert (redis["time"], redis["clock"]) == (A_MONTH_LATER, "redis")
    assert node["data"].get("periods") == redis["data"].get("periods") == periods


async def test_14_clock_a_refusal_has_the_time_of_redis() -> None:
    stage = GateStage(a_book(a_plan(a_quota(0))), record_refusals=True)
    for known_us in (0, START_US + MONTH_US):
        stage.redis_us = known_us
        await stage.refused()
    times = [(one["time"], one["clock"]) for one in events(stage, "api.refusal.v1")]
    assert times == [(NOW, "node"), (A_MONTH_LATER, "redis")]


async def test_14_period_an_event_names_the_period_that_counted_it_though_it_ends_later() -> None:
    stage = GateStage(a_book(a_plan(a_quota(9, period="60s"))))
    first = await stage.allowed()
    stage.clock.us += 60 * MICRO
    second = await stage.allowed()
    for admission in (second, first):
        stage.gate.settle(admission, an_outcome())
    periods = [one["data"]["periods"]["monthly"] for one in events(stage, "api.request.v1")]
    assert periods == [
        "2026-11-24T00:01:00Z/2026-11-24T00:02:00Z",
        "2026-11-24T00:00:00Z/2026-11-24T00:01:00Z",
    ]


async def test_14_period_a_counter_that_goes_on_after_a_move_keeps_its_start_in_events() -> None:
    account = Account("acme", "free", "UTC")
    stage = GateStage(a_book(account=account))
    stage.gate.settle(await stage.allowed(), an_outcome())
    stage.gate.reload(a_book(account=replace(account, timezone="Asia/Tokyo")))
    stage.gate.settle(await stage.allowed(), an_outcome())
    before, after = (one["data"]["periods"]["monthly"] for one in events(stage, "api.request.v1"))
    assert before == "2026-11-01T00:00:00Z/2026-12-01T00:00:00Z"
    assert after == "2026-11-01T00:00:00Z/2026-11-30T15:00:00Z"
