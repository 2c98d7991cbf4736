"""I5 for any history of an account: the counters of the reference are the sum of the events.

Everything here is pure. The reference reserves and settles requests, and the test compares its
counters with the events after every step. The test also loses data and rebuilds it.
"""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.answers import Hold
from sidecar.core.counting import account as accounts
from sidecar.core.counting import corrections
from sidecar.core.counting.corrections import CounterReading
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.reservations import NEW, AccountState
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Claim
from sidecar.core.periods import window_at
from sidecar.reconcile.differences import CauseKind, CounterComparison, compare_counter
from sidecar.reconcile.plan_history import PlanHistory, ResolvedAccount
from sidecar.reconcile.usage import CounterKey, RecordedUsage
from sidecar.stores import keys
from tests.support.replays import ACME, HOUR, START, a_book, a_plan, a_request, a_route

HOURLY = QuotaLimit("hourly", "requests", 20, "hour", 24)
DAILY = QuotaLimit("daily", "requests", 60, "day", 60, per="key")
LIMITS = (HOURLY, DAILY)
BOOK = replace(a_book([a_plan(LIMITS)], [a_route("rest", {"requests": 1})]), version="sha256:old")
LEASE_US = 10**15


class Life:
    """One account: its state, its open requests and its events."""

    def __init__(self) -> None:
        self.now = START + 600 * MICRO
        self.state: AccountState = NEW
        self.events: list[tuple[int, str, int, bool, str]] = []  # time, key, units, billable, id
        self.open: list[tuple[str, int, str, int]] = []  # id, cost, key, when
        self.number = 0

    def asks(self, key: str, cost: int) -> list[BoundClaim]:
        return [
            BoundClaim(keys.limit_field(limit, key), Claim(limit, cost, False),
                window_at(limit, ACME, self.now))
            for limit in LIMITS
        ]  # fmt: skip

    def start(self, key: str, cost: int) -> None:
        self.number += 1
        name = f"id-{self.number}"
        hold = Hold(name, LEASE_US)
        answer, self.state = accounts.reserve(self.state, self.asks(key, cost), self.now, hold)
        if answer.granted:
            self.open.append((name, cost, key, self.now))

    def end(self, which: int, actual: int, *, billable: bool, settled: bool) -> None:
        """End an open request. `settled`: the state is settled as well."""
        name, _, key, at = self.open.pop(which % len(self.open))
        self.events.append((at, key, actual, billable, name))
        if settled:
            asks = self.asks(key, actual if billable else 0)
            _, self.state = accounts.settle(self.state, name, asks, self.now)

    def grant(self, units: int) -> None:
        self.number += 1
        given = Grant(f"g{self.number}", "q/hourly", units, self.now + HOUR)
        _, self.state = accounts.grant(self.state, given, self.now)

    def comparisons(self) -> list[CounterComparison]:
        usage = RecordedUsage(
            PlanHistory(BOOK), lambda *_: ResolvedAccount(ACME, True), keys.limit_field, self.now
        )
        counters = []
        for field, limit in self.state.states.items():
            parts = keys.read_field(field)
            assert parts is not None
            counters.append(CounterKey(field, *parts[1:], limit))
        usage.account("acme").add_counters(counters, self.state.opened)
        for at, key, units, billable, name in self.events:
            request = a_request(0, at, key=key, usage=(("requests", units),), billable=billable)
            usage.add(request._replace(id=name))
        comparisons = (compare_counter(period, self.state, 0) for period in usage.account("acme"))
        return [one for one in comparisons if one is not None]

    def rebuild(self) -> None:
        for one in self.comparisons():
            period, lost = one.usage, -one.units_of(CauseKind.LOST)
            if lost and period.start <= self.now < period.end:
                ask = BoundClaim(period.field, Claim(period.limit, lost, True),
                          window_at(period.limit, ACME, self.now))  # fmt: skip
                read = CounterReading(one.counter, period.start)
                answer, self.state = corrections.rebuild(
                    self.state, [ask], [read], self.state.rebuilt, self.now
                )
                assert answer.granted


KEYS = st.sampled_from(["k1", "k2"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0, 10 * MICRO, 600 * MICRO, HOUR, 5 * HOUR])),
        st.tuples(st.just("start"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("start"), KEYS, st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 12), st.booleans(),
                  st.sampled_from([True, True, False])),
        st.tuples(st.just("grant"), st.integers(1, 30)),
    ),
    max_size=40,
)  # fmt: skip


def replay(life: Life, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    for what, *rest in steps:
        if what == "wait":
            life.now += rest[0]
        elif what == "start":
            life.start(*rest)
        elif what == "end" and life.open:
            which, actual, billable, settled = rest
            life.end(which, actual, billable=billable, settled=settled)
        elif what == "grant":
            life.grant(*rest)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_I5_counters_agree_with_events_through_any_history_of_an_account(
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    life = Life()
    for step in steps:
        replay(life, [step])
        for comparison in life.comparisons():
            assert not comparison.unexplained, comparison


@settings(max_examples=300, deadline=None)
@given(before=STEPS, after=STEPS)
def test_I5_lost_units_are_detected_and_restored_exactly(
    before: list[tuple],  # type: ignore[type-arg]
    after: list[tuple],  # type: ignore[type-arg]
) -> None:
    life = Life()
    replay(life, before)
    life.state = NEW
    replay(life, after)
    for comparison in life.comparisons():
        assert not comparison.units_of(CauseKind.EVENTS_MISSING), comparison
    life.rebuild()
    now = [one for one in life.comparisons() if one.usage.start <= life.now < one.usage.end]
    for comparison in now:
        assert not comparison.unexplained, comparison
    known = life.state
    life.rebuild()
    assert life.state == known, "a second rebuild changes nothing"
