"""I13 for reconcile: whatever moves, a counter is the sum of the events that it should have.

Everything here is pure. The account changes its plan, time zone and billing anchor. After every
step, the reference's counters are compared with the events, as `sidecar reconcile` does.
"""

from dataclasses import replace
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.answers import Hold
from sidecar.core.counting import account as accounts
from sidecar.core.counting import corrections
from sidecar.core.counting.corrections import CounterReading
from sidecar.core.counting.reservations import NEW, AccountState
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.events.read import RecordedRequest
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.core.periods import window_at
from sidecar.reconcile.differences import CauseKind, CounterComparison, compare_counter
from sidecar.reconcile.period_usage import MARGIN_US
from sidecar.reconcile.plan_history import PlanHistory, ResolvedAccount
from sidecar.reconcile.usage import CounterKey, RecordedUsage
from sidecar.stores import keys
from sidecar.stores.memory import bind_claims
from tests.support.replays import HOUR, START, a_book, a_plan, a_request, a_route

DAY = 24 * HOUR
PLANS = {
    "builder": QuotaLimit("m", "requests", 30, "month", 30),
    "pro": QuotaLimit("m", "requests", 90, "cycle", 90, rollover=9),
    "hourly": QuotaLimit("m", "requests", 9, "hour", 9),
    "daily": QuotaLimit("m", "requests", 20, "day", 20),
    "tokens": QuotaLimit("m", "tokens", 40, "month", 40),
}
BOOK = replace(
    a_book(
        [a_plan([limit], name) for name, limit in PLANS.items()], [a_route("rest", {"requests": 1})]
    ),
    version="sha256:old",
)


class Life:
    """One account: its state and its events, each later than the margins of the one before."""

    def __init__(self) -> None:
        self.now = START + 600 * MICRO
        self.account = Account("acme", "builder", anchor=date(2026, 1, 31))
        self.state: AccountState = NEW
        self.events: list[RecordedRequest] = []
        self.open: list[tuple[str, RecordedRequest]] = []

    def asks(self, plan: str, cost: int) -> list[BoundClaim]:
        claims = [Claim(PLANS[plan], cost, forced=False)]
        return bind_claims(self.account, "k1", claims, self.now)

    def step(self, what: str, *rest: object) -> None:
        self.now += 2 * MARGIN_US + 1
        getattr(self, what)(*rest)

    def wait(self, time: int) -> None:
        self.now += time

    def move(self, plan: str) -> None:
        self.account = replace(self.account, plan=plan)

    def zone(self, name: str) -> None:
        self.account = replace(self.account, timezone=name)

    def anchor(self, day: int) -> None:
        self.account = replace(self.account, anchor=date(2026, 1, day))

    def start(self, cost: int) -> None:
        """A request, which stays open until `end`."""
        name, plan = f"id-{len(self.events) + len(self.open)}-{self.now}", self.account.plan
        asks, hold = self.asks(plan, cost), Hold(name, 10**15)
        answer, self.state = accounts.reserve(self.state, asks, self.now, hold)
        if answer.granted:
            usage = ((PLANS[plan].meter, cost),)
            event = a_request(0, self.now, plan=plan, key="k1", usage=usage, billable=True)
            self.open.append((plan, event._replace(id=name)))

    def end(self, which: int, actual: int) -> None:
        if self.open:
            plan, event = self.open.pop(which % len(self.open))
            self.events.append(event._replace(usage=((PLANS[plan].meter, actual),)))
            asks = self.asks(plan, actual)
            _, self.state = accounts.settle(self.state, event.id, asks, self.now)

    def comparisons(self) -> list[CounterComparison]:
        usage = RecordedUsage(
            PlanHistory(BOOK),
            lambda *_: ResolvedAccount(self.account, True),
            keys.limit_field,
            self.now,
        )
        counters = [
            CounterKey(field, "m", None, state) for field, state in self.state.states.items()
        ]
        usage.account("acme").add_counters(counters, self.state.opened)
        for event in self.events:
            usage.add(event)
        found = (compare_counter(period, self.state, 0) for period in usage.account("acme"))
        return [one for one in found if one is not None]

    def rebuild(self) -> None:
        for one in self.comparisons():
            period, lost = one.usage, -one.units_of(CauseKind.LOST)
            if lost and period.start <= self.now < period.end:
                window = window_at(period.limit, self.account, self.now)
                ask = BoundClaim(period.field, Claim(period.limit, lost, forced=True), window)
                read = [CounterReading(one.counter, period.start)]
                answer, self.state = corrections.rebuild(
                    self.state, [ask], read, self.state.rebuilt, self.now
                )
                assert answer.granted


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([HOUR // 4, HOUR, DAY // 2, 9 * DAY])),
        st.tuples(st.just("move"), st.sampled_from(sorted(PLANS))),
        st.tuples(st.just("move"), st.sampled_from(["builder", "pro", "hourly"])),
        st.tuples(st.just("zone"), st.sampled_from(["UTC", "Pacific/Honolulu", "Asia/Kathmandu"])),
        st.tuples(st.just("anchor"), st.sampled_from([1, 8, 16, 31])),
        st.tuples(st.just("start"), st.integers(0, 5)),
        st.tuples(st.just("start"), st.integers(0, 5)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 9)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_I13_reconcile_explains_every_unit_whatever_moves(
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    life = Life()
    for step in steps:
        life.step(*step)
        for comparison in life.comparisons():
            assert not comparison.unexplained, comparison
            causes = {cause.kind for cause in comparison.causes}
            assert causes <= {CauseKind.IN_FLIGHT}, comparison


@settings(max_examples=300, deadline=None)
@given(before=STEPS, after=STEPS)
def test_I13_lost_counters_are_rebuilt_whatever_has_moved(
    before: list[tuple],  # type: ignore[type-arg]
    after: list[tuple],  # type: ignore[type-arg]
) -> None:
    life = Life()
    for step in before:
        life.step(*step)
    life.state = replace(NEW, opened={})
    life.open.clear()
    for step in after:
        life.step(*step)
    life.rebuild()
    now = [one for one in life.comparisons() if one.usage.start <= life.now < one.usage.end]
    for comparison in now:
        assert not comparison.unexplained, comparison
    known = life.state
    life.rebuild()
    assert life.state == known, "a second rebuild changes nothing"
