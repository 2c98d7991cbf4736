"""Which period a call counts in, and what explains a difference: a table of instants."""

import pytest

from sidecar.core.account import AccountState, Charge, Open
from sidecar.core.identity import anonymous_key
from sidecar.core.limits import State
from sidecar.core.model import MICRO, Account, QuotaLimit
from sidecar.errors import SidecarError
from sidecar.reconcile import usage
from sidecar.reconcile.differences import Verdict, judge
from sidecar.reconcile.period_usage import MARGIN_US, Row
from sidecar.reconcile.plan_history import PlanFiles, Who, who
from sidecar.reconcile.usage import AccountUsage, CounterKey, Usage
from sidecar.stores import keys
from tests.support.replays import ACME, HOUR, START, a_book, a_call, a_plan, a_route

HOURLY = QuotaLimit("hourly", "requests", 100, "hour", 100)
BOOK = a_book([a_plan([HOURLY])], [a_route("rest", {"requests": 1})], version="sha256:old")
FIELD = "q/hourly"
NOON = START + 600 * MICRO
SECOND = MICRO


def a_usage(now_us: int = NOON) -> Usage:
    return Usage(PlanFiles(BOOK), lambda *_: Who(ACME, True), keys.limit_field, now_us)


def opened(since_us: int = START, now_us: int = NOON, watched: tuple[str, ...] = ()) -> Usage:
    one = a_usage(now_us)
    one.account("acme").open([CounterKey(FIELD, "hourly", None, since_us)], watched)
    return one


def add(to: Usage, *instants: int, units: int = 1) -> None:
    for at in instants:
        add.number += 1  # type: ignore[attr-defined]
        to.add(a_call(add.number, at, usage=(("requests", units),)))  # type: ignore[attr-defined]


add.number = 0  # type: ignore[attr-defined]


def rows(of: Usage) -> list[Row]:
    return list(of.account("acme"))


def a_ledger(used: int, since_us: int = START, **opened: int) -> AccountState:
    """`opened`: reservations by id and cost."""
    return AccountState(
        {FIELD: State(used, since_us)},
        opened={
            name: Open("charge", (Charge("quota", FIELD, cost, since_us),))
            for name, cost in opened.items()
        },
    )


def whys(verdict: Verdict | None) -> dict[str, int]:
    assert verdict is not None
    return {str(why.kind): why.units for why in verdict.whys}


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
def test_near_the_start_of_a_period_a_call_may_be_in_either(
    at_us: int, units: int, edge: int, before: int
) -> None:
    one = opened()
    add(one, at_us)
    (row,) = rows(one)
    assert (row.units, row.edge, row.before) == (units, edge, before)


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
def test_what_is_near_the_start_explains_as_much_as_it_is(
    used: int, expected: dict[str, int]
) -> None:
    one = opened()
    add(one, START - 1, START - 2)
    add(one, START, START + 1, START + 2)
    add(one, *(START + MARGIN_US + number for number in range(7)))
    assert whys(judge(rows(one)[0], a_ledger(used), 0)) == expected


def test_a_counter_that_has_not_been_used_in_this_period_is_compared_in_its_own() -> None:
    one = opened(since_us=START - HOUR)
    add(one, START - HOUR + 5 * SECOND, START - 5 * SECOND, START + 5 * SECOND)
    last, now = rows(one)
    assert (last.start, last.end, last.units) == (START - HOUR, START, 2)
    assert (now.start, now.end, now.units) == (START, START + HOUR, 1)
    old = a_ledger(2, START - HOUR)
    assert whys(judge(last, old, 0)) == {}
    assert whys(judge(now, old, 0)) == {"lost": -1}
    assert judge(last, a_ledger(1), 0) is None, "that counter is gone"


def test_a_period_that_begins_meanwhile_is_compared_as_well() -> None:
    one = opened()
    add(one, START + 5 * SECOND, START + HOUR + 5 * SECOND)
    first, second = rows(one)
    assert (second.start, second.units) == (START + HOUR, 1)
    assert judge(first, a_ledger(1, START + HOUR), 0) is None
    assert whys(judge(second, a_ledger(1, START + HOUR), 0)) == {}


def test_an_account_that_redis_does_not_know_gets_its_row_from_its_first_call() -> None:
    one = a_usage()
    add(one, START - HOUR, START + 5 * SECOND)
    (row,) = rows(one)
    assert (row.start, row.units) == (START, 1)


def test_events_that_come_after_the_counter_was_read_explain_what_was_in_flight() -> None:
    one = opened()
    add(one, START + 5 * SECOND)
    mine: AccountUsage = one.account("acme")
    mine.read(NOON, ())
    (row,) = rows(one)
    ahead = a_ledger(3)
    assert whys(judge(row, ahead, 0)) == {"events_missing": 2}
    add(one, NOON - SECOND, NOON + SECOND)  # may have been charged by then
    add(one, NOON + MARGIN_US)  # cannot
    assert whys(judge(row, ahead, 0, late=True)) == {"passing": 2}
    assert whys(judge(row, a_ledger(4), 0, late=True)) == {"passing": 2, "events_missing": 1}
    assert whys(judge(row, a_ledger(1), 0, late=True)) == {}
    mine.read(NOON + 10 * SECOND, ())
    assert whys(judge(row, a_ledger(4), 0)) == {}


def test_a_call_that_ends_after_the_counter_was_read_was_in_flight_then() -> None:
    one = opened(watched=("id-000001",))
    mine = one.account("acme")
    mine.read(NOON, ("id-000001",))
    one.add(a_call(1, NOON - SECOND, usage=(("requests", 2),)))
    reserved = {"id-000001": 5}
    ledger = a_ledger(5, **reserved)
    (row,) = rows(one)
    assert whys(judge(row, ledger, 0, late=True)) == {"in_flight": 5}
    assert whys(judge(row, ledger, 0)) == {"settling": 3}


def test_what_journals_hold_explains_a_counter_that_is_too_low() -> None:
    one = opened()
    add(one, START + 5 * SECOND, units=7)
    (row,) = rows(one)
    assert whys(judge(row, a_ledger(3), 4)) == {"journalled": -4}
    assert whys(judge(row, a_ledger(2), 4)) == {"journalled": -4, "lost": -1}
    assert whys(judge(row, a_ledger(7), 4)) == {}


def test_reservations_of_another_period_explain_nothing() -> None:
    one = opened()
    (row,) = rows(one)
    other = AccountState(
        {FIELD: State(2, START)},
        opened={"x": Open("charge", (Charge("quota", FIELD, 2, START - HOUR),))},
    )
    assert whys(judge(row, other, 0)) == {"events_missing": 2}


def test_calls_on_a_plan_that_is_gone_may_have_counted_anywhere_on_their_meter() -> None:
    one = opened()
    one.add(a_call(1, START + 5 * SECOND, plan="gone")._replace(version="sha256:older"))
    (row,) = rows(one)
    assert (row.units, row.elsewhere) == (0, 1)
    assert whys(judge(row, a_ledger(1), 0)) == {"plan_changed": 1}


def test_a_call_under_a_plan_file_that_is_not_at_hand_is_counted_and_noted() -> None:
    one = opened()
    one.add(a_call(1, START + 5 * SECOND)._replace(version="sha256:older"))
    (row,) = rows(one)
    assert (row.units, row.guessed) == (1, 1)
    verdict = judge(row, a_ledger(0), 0)
    assert verdict is not None
    assert (whys(verdict), verdict.guessed) == ({"lost": -1}, 1)


def test_more_calls_than_can_be_remembered_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MOST_EVENTS", 2)
    one = opened()
    add(one, NOON, NOON)
    with pytest.raises(SidecarError, match="one account at a time"):
        add(one, NOON)


def test_who_an_account_is() -> None:
    book = a_book([a_plan([])], [], accounts={"acme": ACME}, anonymous_plan="free")
    there = Account("there", "pro", "Europe/Paris")
    records = {"there": there}
    assert who("acme", "x", book, records.get) == Who(ACME, True)
    assert who("there", "x", book, records.get) == Who(there, True)
    assert who("gone", "x", book, records.get) == Who(Account("gone", "x"), False)
    nobody = anonymous_key("192.0.2.7", "free").account
    assert who(nobody.id, "x", book, records.get) == Who(nobody, True)
