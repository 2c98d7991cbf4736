"""Overage for any interleaving of requests: a referee reckons each bill from the events alone.

A life of an account is a list of steps: reservations at an estimate or at a final cost, settlements
at any cost, requests given back, dead sidecars, packs, requests without Redis, and time.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.answers import Hold
from sidecar.core.counting import account as accounts
from sidecar.core.counting import corrections
from sidecar.core.counting.corrections import JournalEntries
from sidecar.core.counting.counters import EMPTY
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.orphans import sweep
from sidecar.core.counting.reservations import NEW, NOT_ENDED, AccountState
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.stores.memory import bind_claims

HOUR = 3_600 * MICRO
START = 1_790_000_000 * MICRO // HOUR * HOUR
LEASE = HOUR // 10
ACME = Account("acme", "pro")
FIELD = "q/q0"


@dataclass
class Bill:
    """Sums of one period: over its events, and over what grants paid in it.

    `lost`: units that grants may have paid for nothing, as they expired before a request ended.
    """

    usage: int = 0
    overage: int = 0
    paid: int = 0
    lost: int = 0


@dataclass
class Open:
    """A request in flight. `event`: the overage that its answer to `reserve` had; None: late."""

    since: int
    cost: int
    event: int | None
    releases: bool
    until: int


@dataclass
class Life:
    """An account with one quota, and the events of its requests."""

    quota: QuotaLimit
    now: int = START
    state: AccountState = NEW
    bills: dict[int, Bill] = field(default_factory=lambda: defaultdict(Bill))
    opened: dict[str, Open] = field(default_factory=dict)
    number: int = 0

    def bind(self, cost: int, *, forced: bool = False) -> list[BoundClaim]:
        return bind_claims(ACME, "k1", [Claim(self.quota, cost, forced)], self.now)

    @property
    def since(self) -> int:
        return self.state.states.get(FIELD, EMPTY).since_us

    def paid(self) -> int:
        return sum(grant.used for grant in self.state.grants)

    def note_lost(self, one: Open, cost: int) -> None:
        """A grant that has expired, and the period before, get nothing back."""
        expired = any(grant.used and grant.expires_us <= self.now for grant in self.state.grants)
        if expired or one.since != self.since:
            self.bills[one.since].lost += max(0, one.cost - cost)

    def change(self, after: AccountState) -> None:
        """Take the state over, and note what grants paid or got back in its period."""
        before = self.paid()
        self.state = after
        self.bills[self.since].paid += self.paid() - before

    def event(self, since: int, usage: int, overage: int) -> None:
        assert overage >= 0
        self.bills[since].usage += usage
        self.bills[since].overage += overage

    def reserve(self, cost: int, kind: str, *, forced: bool) -> None:
        self.number += 1
        name, late = f"h{self.number}", kind.startswith("late")
        releases = kind.endswith("released")
        hold = Hold(name, LEASE, "release" if releases else "charge", late=late)
        self.sweep()
        answer, after = accounts.reserve(
            self.state, self.bind(cost, forced=forced), self.now, None if kind == "final" else hold
        )
        self.change(after)
        if not answer.granted:
            return
        reported = answer.details[0].overage
        if kind == "final":
            self.event(self.since, cost, reported)
        else:
            assert not late or not reported
            until = self.now + LEASE
            self.opened[name] = Open(self.since, cost, None if late else reported, releases, until)

    def settle(self, which: int, cost: int, *, given_back: bool) -> None:
        if not self.opened:
            return
        name = sorted(self.opened)[which % len(self.opened)]
        one = self.opened.pop(name)
        given_back = given_back and one.event is None
        if one.event is not None:
            cost = one.cost
        elif given_back:
            cost = 0
        answer, after = accounts.settle(
            self.state, name, self.bind(cost, forced=True), self.now, billed=not given_back
        )
        self.change(after)
        self.note_lost(one, cost)
        reported = answer.details[0].overage
        if given_back:
            assert reported == 0
        else:
            self.event(one.since, cost, reported if one.event is None else one.event)
        again, unchanged = accounts.settle(self.state, name, self.bind(cost), self.now)
        assert (again.granted, unchanged) == (False, self.state)
        assert again.details[0].overage == reported

    def sweep(self) -> None:
        """End expired leases: their sidecars died, so their requests have no event."""
        self.change(sweep(self.state, self.now))
        for name, one in list(self.opened.items()):
            if one.releases and one.until <= self.now:
                del self.opened[name]
                self.note_lost(one, 0)

    def wait(self, span: int) -> None:
        """Let time pass. Requests that would outlast a whole further period end before."""
        self.sweep()
        later = self.now + span
        for name, one in list(self.opened.items()):
            if one.since + 2 * HOUR <= later:
                self.settle(sorted(self.opened).index(name), one.cost + 1, given_back=False)
        self.now = later
        self.sweep()
        self.reserve(0, "final", forced=True)  # the new period begins

    def charge(self, cost: int, reported: int, *, died: bool) -> None:
        """A request that was allowed without Redis, before now and in this period."""
        self.number += 1
        since = self.bind(0)[0].window.start
        entries = JournalEntries(f"j{self.number}", 1, 1, (NOT_ENDED if died else reported,))
        bound = self.bind(cost, forced=True)
        status, _, after = corrections.charge(self.state, bound, [since], entries, self.now)
        assert status == 1
        self.change(after)
        if not died:
            self.event(since, cost, reported)


def end(life: Life) -> None:
    while life.opened:
        life.settle(0, len(life.opened), given_back=False)


KINDS = st.sampled_from(["final", "late", "late", "late released", "fixed"])
COSTS = st.integers(0, 40)
STEPS = st.one_of(
    st.tuples(st.just("reserve"), COSTS, KINDS, st.booleans()),
    st.tuples(st.just("reserve"), COSTS, KINDS, st.booleans()),
    st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 90), st.just(False)),
    st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 90), st.booleans()),
    st.tuples(st.just("grant"), st.integers(1, 60), st.integers(1, 3 * HOUR), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.sampled_from([MICRO, LEASE, HOUR // 2, HOUR, 3 * HOUR])),
)
QUOTAS = st.builds(
    lambda units, more, rollover: QuotaLimit(
        "q0", "tokens", units, "hour", units + more, rollover=rollover
    ),
    st.integers(0, 60), st.sampled_from([0, 10, 1000]), st.sampled_from([0, 20]),
)  # fmt: skip


def a_life(quota: QuotaLimit, steps: list[tuple]) -> Life:  # type: ignore[type-arg]
    life = Life(quota)
    for name, *values in steps:
        if name == "reserve":
            life.reserve(values[0], values[1], forced=values[2])
        elif name == "settle":
            life.settle(values[0], values[1], given_back=values[2])
        elif name == "grant":
            units, lasts, priority = values
            given = Grant(f"g{life.number}-{life.now}", FIELD, units, life.now + lasts, priority)
            _, life.state = accounts.grant(life.state, given, life.now)
        elif name == "charge":
            life.charge(values[0], values[1], died=values[2])
        else:
            life.wait(values[0])
    end(life)
    return life


@settings(max_examples=500, deadline=None)
@given(quota=QUOTAS, steps=st.lists(STEPS, max_size=30))
def test_I11_overage_of_the_events_is_usage_beyond_plan_and_packs(
    quota: QuotaLimit,
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    quota = replace(quota, rollover=0)
    life = a_life(quota, steps)
    for bill in life.bills.values():
        least = max(0, bill.usage - quota.units - bill.paid)
        assert least <= bill.overage <= least + min(bill.paid, bill.lost)


CHARGES = st.tuples(st.just("charge"), COSTS, COSTS, st.just(False))


@settings(max_examples=500, deadline=None)
@given(quota=QUOTAS, steps=st.lists(STEPS | CHARGES, max_size=30))
def test_I11_what_events_reported_without_redis_is_corrected_by_the_next_ones(
    quota: QuotaLimit,
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    quota = replace(quota, rollover=0)
    life = a_life(quota, steps)
    life.reserve(0, "final", forced=True)
    due = life.state.states[FIELD].due
    assert due <= 0  # else this request's event has reported it
    bills = life.bills.values()
    reported = sum(bill.overage for bill in bills) + due
    least = sum(max(0, bill.usage - quota.units - bill.paid) for bill in bills)
    assert least <= reported <= least + sum(min(bill.paid, bill.lost) for bill in bills)


@settings(max_examples=500, deadline=None)
@given(quotas=st.lists(QUOTAS, min_size=2, max_size=5), steps=st.lists(STEPS, max_size=20))
def test_I11_no_change_of_plan_makes_earlier_usage_overage(
    quotas: list[QuotaLimit],
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    """Each event reports at most its own units, and usage within any of the plans never is."""
    life = Life(quotas[0])
    for number, (name, *values) in enumerate(steps):
        life.quota = quotas[number % len(quotas)]
        before = {since: replace(bill) for since, bill in life.bills.items()}
        if name == "reserve":
            life.reserve(values[0], values[1], forced=values[2])
        elif name == "settle":
            life.settle(values[0], values[1], given_back=values[2])
        elif name == "wait":
            life.wait(values[0])
        for since, bill in life.bills.items():
            was = before.get(since, Bill())
            assert bill.overage - was.overage <= bill.usage - was.usage
    end(life)
    most = max(quota.units for quota in quotas)
    least = min(quota.units for quota in quotas)
    for bill in life.bills.values():
        carried = max(quota.rollover for quota in quotas)
        assert bill.overage >= max(0, bill.usage - most - carried)
        assert bill.overage <= max(0, bill.usage - least)
