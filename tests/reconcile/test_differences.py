"""In which period a request counts, and what explains a difference: tables of instants."""

import pytest

from sidecar.core.counting.counters import State
from sidecar.core.counting.reservations import AccountState, Charge, Reservation
from sidecar.core.identity import anonymous_key
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Account
from sidecar.errors import SidecarError
from sidecar.reconcile import usage
from sidecar.reconcile.differences import CounterComparison, compare_counter
from sidecar.reconcile.period_usage import MARGIN_US, PeriodUsage
from sidecar.reconcile.plan_history import PlanHistory, ResolvedAccount, resolve_account
from sidecar.reconcile.usage import AccountUsage, CounterKey, RecordedUsage
from sidecar.stores import keys
from tests.support.replays import ACME, HOUR, START, a_book, a_plan, a_request, a_route

HOURLY = QuotaLimit("hourly", "requests", 100, "hour", 100)
BOOK = a_book([a_plan([HOURLY])], [a_route("rest", {"requests": 1})], version="sha256:old")
FIELD = "q/hourly"
NOON = START + 600 * MICRO
SECOND = MICRO


def a_usage(now_us: int = NOON) -> RecordedUsage:
    return RecordedUsage(
        PlanHistory(BOOK), lambda *_: ResolvedAccount(ACME, True), keys.limit_field, now_us
    )


def opened(
    since_us: int = START, now_us: int = NOON, reserved: tuple[str, ...] = ()
) -> RecordedUsage:
    one = a_usage(now_us)
    one.account("acme").add_counters(
        [CounterKey(FIELD, "hourly", None, State(since_us=since_us))], reserved
    )
    return one


def add(to: RecordedUsage, *instants: int, units: int = 1) -> None:
    for at in instants:
        add.number += 1  # type: ignore[attr-defined]
        to.add(a_request(add.number, at, usage=(("requests", units),)))  # type: ignore[attr-defined]


add.number = 0  # type: ignore[attr-defined]


def periods(of: RecordedUsage) -> list[PeriodUsage]:
    return list(of.account("acme"))


def a_state(used: int, since_us: int = START, **opened: int) -> AccountState:
    """A state with one quota. `opened`: the cost of open reservations by id."""
    return AccountState(
        {FIELD: State(used, since_us)},
        opened={
            name: Reservation("charge", (Charge("quota", FIELD, cost, since_us),))
            for name, cost in opened.items()
        },
    )


def causes(comparison: CounterComparison | None) -> dict[str, int]:
    assert comparison is not None
    return {str(cause.kind): cause.units for cause in comparison.causes}


@pytest.mark.parametrize(
    ("at_us", "units", "edge", "before"),
    [
        (START - MARGIN_US - 1, 0, 0, 0),
        (START - MARGIN_US, 0, 0, 1),
        (START - 1, 0, 0, 1),
        (START, 1, 1, 0),
        (START + MARGIN_US - 1, 1, 1, 0),
        (START + MARGIN_US, 1, 0, 0),
        (START + HOUR - 1, 1, 0, 0),
    ],
)
def test_near_the_start_of_a_period_a_request_may_count_in_either_period(
    at_us: int, units: int, edge: int, before: int
) -> None:
    one = opened()
    add(one, at_us)
    (period,) = periods(one)
    assert (period.units, period.edge, period.before) == (units, edge, before)


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (10, {}),
        (9, {"period_start": -1}),
        (7, {"period_start": -3}),
        (6, {"period_start": -3, "lost": -1}),
        (12, {"period_start": 2}),
        (13, {"period_start": 2, "events_missing": 1}),
    ],
)
def test_units_near_the_start_explain_at_most_their_number(
    used: int, expected: dict[str, int]
) -> None:
    one = opened()
    add(one, START - 1, START - 2)
    add(one, START, START + 1, START + 2)
    add(one, *(START + MARGIN_US + number for number in range(7)))
    assert causes(compare_counter(periods(one)[0], a_state(used), 0)) == expected


def test_a_counter_unused_in_the_current_period_is_compared_in_its_own_period() -> None:
    one = opened(since_us=START - HOUR)
    add(one, START - HOUR + 5 * SECOND, START - 5 * SECOND, START + 5 * SECOND)
    last, now = periods(one)
    assert (last.start, last.end, last.units) == (START - HOUR, START, 2)
    assert (now.start, now.end, now.units) == (START, START + HOUR, 1)
    old = a_state(2, START - HOUR)
    assert causes(compare_counter(last, old, 0)) == {}
    assert causes(compare_counter(now, old, 0)) == {"lost": -1}
    assert compare_counter(last, a_state(1), 0) is None, "Redis has replaced that counter"


def test_a_period_that_begins_during_the_comparison_is_compared_too() -> None:
    one = opened()
    add(one, START + 5 * SECOND, START + HOUR + 5 * SECOND)
    first, second = periods(one)
    assert (second.start, second.units) == (START + HOUR, 1)
    assert compare_counter(first, a_state(1, START + HOUR), 0) is None
    assert causes(compare_counter(second, a_state(1, START + HOUR), 0)) == {}


def test_an_account_that_redis_lacks_gets_its_period_from_its_first_request() -> None:
    one = a_usage()
    add(one, START - HOUR, START + 5 * SECOND)
    (period,) = periods(one)
    assert (period.start, period.units) == (START, 1)


def test_events_that_come_after_the_counter_was_read_explain_what_was_in_flight() -> None:
    one = opened()
    add(one, START + 5 * SECOND)
    mine: AccountUsage = one.account("acme")
    mine.mark_read(NOON, ())
    (period,) = periods(one)
    ahead = a_state(3)
    assert causes(compare_counter(period, ahead, 0)) == {"events_missing": 2}
    add(one, NOON - SECOND, NOON + SECOND)  # Redis may have charged these before
    add(one, NOON + MARGIN_US)  # but not this one
    assert causes(compare_counter(period, ahead, 0, late=True)) == {"late_events": 2}
    assert causes(compare_counter(period, a_state(4), 0, late=True)) == {
        "late_events": 2,
        "events_missing": 1,
    }
    assert causes(compare_counter(period, a_state(1), 0, late=True)) == {}
    mine.mark_read(NOON + 10 * SECOND, ())
    assert causes(compare_counter(period, a_state(4), 0)) == {}


def test_a_request_that_ends_after_the_counter_was_read_was_in_flight() -> None:
    one = opened(reserved=("id-000001",))
    mine = one.account("acme")
    mine.mark_read(NOON, ("id-000001",))
    one.add(a_request(1, NOON - SECOND, usage=(("requests", 2),)))
    reserved = {"id-000001": 5}
    state = a_state(5, **reserved)
    (period,) = periods(one)
    assert causes(compare_counter(period, state, 0, late=True)) == {"in_flight": 5}
    assert causes(compare_counter(period, state, 0)) == {"settling": 3}


def test_uncharged_units_explain_a_counter_that_is_too_low() -> None:
    one = opened()
    add(one, START + 5 * SECOND, units=7)
    (period,) = periods(one)
    assert causes(compare_counter(period, a_state(3), 4)) == {"uncharged": -4}
    assert causes(compare_counter(period, a_state(2), 4)) == {"uncharged": -4, "lost": -1}
    assert causes(compare_counter(period, a_state(7), 4)) == {}


def test_reservations_of_another_period_explain_nothing() -> None:
    one = opened()
    (period,) = periods(one)
    other = AccountState(
        {FIELD: State(2, START)},
        opened={"x": Reservation("charge", (Charge("quota", FIELD, 2, START - HOUR),))},
    )
    assert causes(compare_counter(period, other, 0)) == {"events_missing": 2}


def test_requests_on_a_removed_plan_may_have_counted_in_any_quota_of_their_meter() -> None:
    one = opened()
    one.add(a_request(1, START + 5 * SECOND, plan="removed")._replace(version="sha256:older"))
    (period,) = periods(one)
    assert (period.units, period.elsewhere) == (0, 1)
    assert causes(compare_counter(period, a_state(1), 0)) == {"plan_changed": 1}


def test_a_request_under_an_unknown_plan_file_is_counted_as_uncertain() -> None:
    one = opened()
    one.add(a_request(1, START + 5 * SECOND)._replace(version="sha256:older"))
    (period,) = periods(one)
    assert (period.units, period.uncertain) == (1, 1)
    comparison = compare_counter(period, a_state(0), 0)
    assert comparison is not None
    assert (causes(comparison), comparison.uncertain) == ({"lost": -1}, 1)


def test_too_many_requests_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_EVENTS", 2)
    one = opened()
    add(one, NOON, NOON)
    with pytest.raises(SidecarError, match="one account at a time"):
        add(one, NOON)


def test_an_account_comes_from_the_plan_file_or_redis_or_its_events() -> None:
    book = a_book([a_plan([])], [], accounts={"acme": ACME}, anonymous_plan="free")
    there = Account("there", "pro", "Europe/Paris")
    records = {"there": there}
    assert resolve_account("acme", "x", book, records.get) == ResolvedAccount(ACME, True)
    assert resolve_account("there", "x", book, records.get) == ResolvedAccount(there, True)
    assert resolve_account("removed", "x", book, records.get) == ResolvedAccount(
        Account("removed", "x"), False
    )
    anonymous = anonymous_key("192.0.2.7", "free").account
    assert resolve_account(anonymous.id, "x", book, records.get) == ResolvedAccount(anonymous, True)
