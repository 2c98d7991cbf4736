"""Requests in flight at a kill explain a counter that is too high, and no more than that."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.events.read import RecordedStop
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.reconcile.differences import CauseKind, compare_counter
from sidecar.reconcile.killed_requests import KilledRequests
from sidecar.reconcile.period_usage import PeriodUsage
from sidecar.reconcile.plan_history import PlanHistory
from tests.reconcile.test_differences import a_state, causes
from tests.support.replays import HOUR, START, a_book, a_plan, a_route

HOURLY = QuotaLimit("hourly", "requests", 100, "hour", 100)
ROUTES = [a_route("rest", {"requests": 1}), a_route("export", {"requests": 10})]
PLANS = PlanHistory(a_book([a_plan([HOURLY])], ROUTES))
AFTER = START + 60 * MICRO


def a_stop(requests: int, time_us: int = AFTER, number: int = 1) -> RecordedStop:
    return RecordedStop("/s", f"stop-{number}", time_us, requests)


def a_usage(account: str = "acme", limit: QuotaLimit = HOURLY, start: int = START) -> PeriodUsage:
    return PeriodUsage(account, f"q/{limit.id}", limit, None, start, start + HOUR)


def test_13_units_of_requests_in_flight_at_a_kill_are_explained() -> None:
    usage = a_usage()
    usage.add(AFTER, 5, certain=True, read_us=None)
    for used, explained in ((8, {"killed": 3}), (5, {}), (26, {"killed": 20, "events_missing": 1})):
        compared = compare_counter(usage, a_state(used), 0, killed=20)
        assert causes(compared) == explained


def test_a_kill_explains_no_counter_that_is_too_low() -> None:
    usage = a_usage()
    usage.add(AFTER, 5, certain=True, read_us=None)
    assert causes(compare_counter(usage, a_state(2), 0, killed=20)) == {"lost": -3}


def test_a_stop_before_the_period_explains_nothing() -> None:
    stops = [a_stop(4, START - 10 * MICRO), a_stop(2, AFTER, 2)]
    killed = KilledRequests(PLANS, lambda: stops)
    assert killed.units_for(a_usage()) == 2 * 10
    assert killed.units_for(a_usage(start=START - HOUR)) == 6 * 10
    assert KilledRequests(PLANS, list).units_for(a_usage()) == 0


def test_a_meter_that_no_route_costs_is_not_explained() -> None:
    other = QuotaLimit("tokens", "tokens", 100, "hour", 100)
    killed = KilledRequests(PLANS, lambda: [a_stop(9)])
    usage = a_usage(limit=other)
    assert killed.units_for(usage) == 0
    killed.attribute(usage, 0)


@given(
    requests=st.integers(0, 30),
    extra=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 90)), max_size=12),
)
def test_13_all_accounts_together_have_at_most_the_requests_of_the_stops(
    requests: int, extra: list[tuple[str, int]]
) -> None:
    """Counters may be compared again, in any order: each replaces what it had before."""
    killed = KilledRequests(PLANS, lambda: [a_stop(requests)])
    attributed: dict[str, int] = {}
    for account, units in extra:
        usage = a_usage(account)
        compared = compare_counter(usage, a_state(units), 0, killed=killed.units_for(usage))
        if compared is not None:
            attributed[account] = compared.units_of(CauseKind.KILLED)
            killed.attribute(usage, attributed[account])
            assert 0 <= attributed[account] <= units
        assert sum(-(-one // 10) for one in attributed.values()) <= requests
