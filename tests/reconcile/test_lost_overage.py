"""The overage that events have reported of lost units, by what the events say and do not say."""

import pytest

from sidecar.core.counting.corrections import NOT_KNOWN
from sidecar.core.counting.counters import State
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.reservations import AccountState, Charge, Reservation
from sidecar.core.kinds import QuotaLimit
from sidecar.reconcile.differences import CauseKind, compare_counter
from sidecar.reconcile.lost_overage import lost_overage
from sidecar.reconcile.plan_history import PlanHistory, ResolvedAccount
from sidecar.reconcile.usage import CounterKey, RecordedUsage
from sidecar.stores import keys
from tests.support.replays import ACME, HOUR, START, a_book, a_plan, a_request, a_route

NOON = START + HOUR // 2
HOURLY = QuotaLimit("hourly", "requests", 10, "hour", 1000)
DAILY = QuotaLimit("daily", "requests", 20, "day", 1000)
Overage = tuple[tuple[str, int], ...]
BY_LIMIT: Overage = (("hourly", 5), ("daily", 3))


def lost(
    *limits: QuotaLimit,
    by_limit: Overage = (),
    overage: int = 5,
    stored: AccountState | None = None,
    billable: bool = True,
    late: int = 0,
) -> int:
    """What is returned if an event with 15 units has this overage, and all of it is lost.

    `late`: overage in an event of its own.
    """
    account = stored or AccountState()
    plans = PlanHistory(a_book([a_plan(limits)], [a_route("rest", {"requests": 1})]))
    usage = RecordedUsage(plans, lambda *_: ResolvedAccount(ACME, True), keys.limit_field, NOON)
    counters = [CounterKey("q/hourly", "hourly", None, account.states.get("q/hourly", State()))]
    usage.account("acme").add_counters(counters, account.opened)
    request = a_request(1, NOON, usage=(("requests", 15),), billable=billable)
    version = plans.current.version
    request = request._replace(
        overage=(("requests", overage),), overage_by_limit=by_limit, version=version
    )
    usage.add(request)
    usage.add(request)  # a copy
    if late:
        usage.add(
            request._replace(
                id="overage/1", usage=(("requests", 0),), overage_by_limit=(("hourly", late),)
            )
        )
    (period,) = (one for one in usage.account("acme") if one.field == "q/hourly")
    comparison = compare_counter(period, account, 0)
    assert comparison is not None
    units = -comparison.units_of(CauseKind.LOST)
    return lost_overage(comparison, units, ACME, account, NOON)


def a_state(used: int, over: int, due: int = 0) -> AccountState:
    state = State(
        used, START, 0, 0, START + HOUR, counts_of(HOURLY), used - over, over, due
    )  # fmt: skip
    return AccountState(states={"q/hourly": state})


def test_each_quota_has_the_overage_that_events_report_for_it() -> None:
    assert lost(HOURLY, DAILY, by_limit=BY_LIMIT) == 5
    assert lost(HOURLY, DAILY, by_limit=(("daily", 5),)) == 0


def test_an_older_event_has_the_overage_of_the_only_quota_of_its_meter() -> None:
    assert lost(HOURLY) == 5
    assert lost(HOURLY, DAILY) == NOT_KNOWN
    assert lost(HOURLY, DAILY, overage=0) == 0


def test_overage_in_an_event_of_its_own_is_reported_too() -> None:
    assert lost(HOURLY, by_limit=BY_LIMIT, late=4) == 9


def test_events_that_are_not_billed_report_nothing() -> None:
    assert lost(HOURLY, by_limit=BY_LIMIT, billable=False) == 0


@pytest.mark.parametrize(
    ("over", "due", "reported"), [(0, 0, 5), (3, 0, 2), (3, 1, 3), (9, 0, 0), (0, 4, 5), (0, -2, 3)]
)
def test_the_counter_knows_what_events_since_the_loss_have_reported(
    over: int, due: int, reported: int
) -> None:
    assert lost(HOURLY, by_limit=BY_LIMIT, stored=a_state(12, over, due)) == reported


@pytest.mark.parametrize(("hold_id", "reported"), [("h1", 5), ("id-000001", 2)])
def test_a_request_in_flight_is_going_to_report_its_overage_unless_its_event_is_there(
    hold_id: str, reported: int
) -> None:
    stored = a_state(12, 3)
    charge = Charge("quota", "q/hourly", 3, START, reported=3)
    opened = {hold_id: Reservation("charge", (charge,))}
    in_flight = AccountState(states=stored.states, opened=opened)
    assert lost(HOURLY, by_limit=BY_LIMIT, stored=in_flight) == reported


def test_units_that_may_have_been_carried_over_count_as_reported() -> None:
    rolling = QuotaLimit("hourly", "requests", 10, "hour", 1000, rollover=4)
    assert lost(rolling, by_limit=BY_LIMIT) == 9
    assert lost(rolling, by_limit=(("hourly", 13),)) == 15, "not more than is lost"
