"""I11 through losses: the events' overage is what they used beyond plan and packs.

Everything here is pure. Requests with fixed and late costs are reserved and settled in the
reference. It loses its state at any instant and is rebuilt from the events, also while requests are
in flight. Packs are granted again before a rebuild, with their ids.
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
from sidecar.core.kinds import MICRO, UNBOUNDED, QuotaLimit
from sidecar.core.model import Claim
from sidecar.reconcile.differences import CauseKind, CounterComparison, compare_counter
from sidecar.reconcile.lost_overage import lost_overage
from sidecar.reconcile.plan_history import PlanHistory, ResolvedAccount
from sidecar.reconcile.usage import CounterKey, RecordedUsage
from sidecar.stores import keys
from sidecar.stores.memory import bind_claims
from tests.support.replays import ACME, HOUR, START, a_book, a_plan, a_request, a_route

LEASE_US = 10**15
FIELD = "q/hourly"


class Life:
    """One account: its state, its open requests, and its events as (time, id, units, overage)."""

    def __init__(self, units: int) -> None:
        self.quota = QuotaLimit("hourly", "requests", units, "hour", UNBOUNDED)
        self.now = START + 600 * MICRO
        self.state: AccountState = NEW
        self.events: list[tuple[int, str, int, int]] = []
        self.open: list[tuple[str, int, int | None, int]] = []  # id, cost, overage, when
        self.packs: list[Grant] = []
        self.number = 0
        book = a_book([a_plan((self.quota,))], [a_route("rest", {"requests": 1})])
        self.book = replace(book, version="sha256:old")

    def bind(self, cost: int) -> list[BoundClaim]:
        return bind_claims(ACME, "k1", [Claim(self.quota, cost, forced=True)], self.now)

    def start(self, cost: int, *, late: bool, held: bool) -> None:
        self.number += 1
        name = f"id-{self.number}"
        hold = Hold(name, LEASE_US, late=late) if held or late else None
        answer, self.state = accounts.reserve(self.state, self.bind(cost), self.now, hold)
        self.now += 3 * MICRO
        overage = None if late else answer.details[0].overage
        self.open.append((name, cost, overage, self.now))

    def end(self, which: int, cost: int) -> None:
        name, estimate, overage, at = self.open.pop(which % len(self.open))
        cost = estimate if overage is not None else cost
        answer, self.state = accounts.settle(self.state, name, self.bind(cost), self.now)
        if overage is None:
            overage = answer.details[0].overage
        self.events.append((at, name, cost, overage))

    def grant(self, units: int) -> None:
        self.number += 1
        self.packs.append(Grant(f"g{self.number}", FIELD, units, self.now + HOUR))
        _, self.state = accounts.grant(self.state, self.packs[-1], self.now)

    def comparisons(self) -> list[CounterComparison]:
        usage = RecordedUsage(
            PlanHistory(self.book), lambda *_: ResolvedAccount(ACME, True), keys.limit_field,
            self.now,
        )  # fmt: skip
        counters = [
            CounterKey(field, "hourly", None, state) for field, state in self.state.states.items()
        ]
        usage.account("acme").add_counters(counters, self.state.opened)
        for at, name, units, overage in self.events:
            request = a_request(0, at, usage=(("requests", units),))
            beyond = (("hourly", overage),) if overage else ()
            meters = (("requests", overage),) if overage else ()
            usage.add(request._replace(id=name, overage=meters, overage_by_limit=beyond))
        found = (compare_counter(period, self.state, 0) for period in usage.account("acme"))
        return [one for one in found if one is not None]

    def rebuild(self) -> None:
        for pack in self.packs:
            _, self.state = accounts.grant(self.state, pack, self.now)
        for one in self.comparisons():
            lost = -one.units_of(CauseKind.LOST)
            if lost:
                reported = lost_overage(one, lost, ACME, self.state, self.now)
                read = CounterReading(one.counter, one.usage.start, reported)
                answer, self.state = corrections.rebuild(
                    self.state, self.bind(lost), [read], self.state.rebuilt, self.now
                )
                assert answer.granted

    def finish(self) -> None:
        """End all requests, rebuild, and send one more request."""
        while self.open:
            self.end(0, self.open[0][1] + 1)
        self.rebuild()
        self.start(1, late=False, held=False)
        self.end(0, 1)


REQUESTS = st.tuples(st.just("start"), st.integers(0, 9), st.booleans(), st.booleans())
ENDS = st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 12))
LOSSES = st.tuples(st.just("lose"))
REBUILDS = st.tuples(st.just("rebuild"))
GRANTS = st.tuples(st.just("grant"), st.integers(1, 20))


def replay(life: Life, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    for what, *rest in steps:
        if what == "start":
            life.start(rest[0], late=rest[1], held=rest[2])
        elif what == "end" and life.open:
            life.end(*rest)
        elif what == "lose":
            life.state = NEW
        elif what == "rebuild":
            life.rebuild()
        elif what == "grant":
            life.grant(*rest)


@settings(max_examples=500, deadline=None)
@given(
    units=st.integers(0, 40),
    before=st.lists(REQUESTS | ENDS, max_size=20),
    between=st.lists(REQUESTS | ENDS, max_size=20),
    after=st.lists(REQUESTS | ENDS, max_size=20),
)
def test_I11_overage_after_a_loss_is_usage_beyond_the_plan(
    units: int,
    before: list[tuple],  # type: ignore[type-arg]
    between: list[tuple],  # type: ignore[type-arg]
    after: list[tuple],  # type: ignore[type-arg]
) -> None:
    """One loss at any instant, and a rebuild while requests are in flight."""
    life = Life(units)
    replay(life, [*before, ("lose",), *between, ("rebuild",), *after])
    life.finish()
    used = sum(one[2] for one in life.events)
    assert all(one[3] >= 0 for one in life.events)
    assert sum(one[3] for one in life.events) == max(0, used - units)


@settings(max_examples=500, deadline=None)
@given(
    units=st.integers(0, 40),
    steps=st.lists(REQUESTS | REQUESTS | ENDS | LOSSES | REBUILDS | GRANTS, max_size=40),
)
def test_I11_losses_and_rebuilds_bill_neither_too_much_nor_too_little(
    units: int,
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    """Any number of losses and rebuilds; no request is in flight then if the account has packs."""
    life = Life(units)
    for step in steps:
        if life.packs and step[0] in ("lose", "rebuild"):
            while life.open:
                life.end(0, life.open[0][1] + 1)
        replay(life, [step])
    life.finish()
    used = sum(one[2] for one in life.events)
    paid = sum(grant.used for grant in life.state.grants)
    overage = sum(one[3] for one in life.events)
    assert max(0, used - units - paid) <= overage <= max(0, used - units)
    if not life.packs:
        assert overage == max(0, used - units)
