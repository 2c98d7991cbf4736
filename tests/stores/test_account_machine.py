"""The life of an account as a state machine that Hypothesis drives.

Its steps are requests of two sidecars, settlements, packs, new plan files, clock steps and dead
sidecars. Valkey and the reference (`Both`) must agree, and both with the events, which the test
sums independently.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from sidecar.core.answers import Hold
from sidecar.core.counting.corrections import JournalEntries
from sidecar.core.counting.counters import EMPTY
from sidecar.core.counting.limits import Grant
from sidecar.core.kinds import MICRO, ConcurrencyLimit, QuotaLimit, RateLimit
from sidecar.core.model import Claim
from tests.support.stores.account_replay import HOUR, START, Both

LEASE = 60 * MICRO
MOST_OPEN = 10
REFILL = (2, 3)  # units a second, as a fraction
QUOTAS = ("q/q0", "q/q1")
COSTS = st.integers(0, 9)
UNITS = st.sampled_from([2, 5, 12, 40])
SIDECARS = st.sampled_from("ab")  # two sidecars


@dataclass
class Call:
    """An open reservation: its claims and their period.

    `poured`: its rate counted it, which it does not beyond a debt of one burst. `ended`: its lease
    was ended.
    """

    sidecar: str
    rule: str
    claims: list[Claim]
    since: dict[str, int]
    until: int
    poured: bool
    ended: bool = False


class Account(RuleBasedStateMachine):
    """`tally` and `paid`: units in the events, and units that packs paid, by quota and period.
    `level`: of the bucket, exactly."""

    def __init__(self, client: "redis.Redis") -> None:
        super().__init__()
        self.both = Both(client)
        self.tally: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.granted: defaultdict[str, int] = defaultdict(int)
        self.paid: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.noted_of_packs: defaultdict[str, int] = defaultdict(int)
        self.over: set[str] = set()  # quotas of expired packs that paid
        self.latest = START
        self.level, self.level_at = Fraction(0), START
        self.calls: dict[str, Call] = {}
        self.number = 0
        self.plan(30, 20, 10, 3, over=False, shadow=False)

    @rule(
        first=UNITS, second=UNITS, burst=st.integers(1, 20),
        slots=st.integers(0, 4), over=st.booleans(), shadow=st.booleans(),
    )  # fmt: skip
    def plan(
        self, first: int, second: int, burst: int, slots: int, *, over: bool, shadow: bool
    ) -> None:
        """A new plan file is live; requests in flight keep the former one."""
        self.quotas = (
            QuotaLimit("q0", "requests", first, "hour", first * 12 // 10 if over else first),
            QuotaLimit("q1", "requests", second, "hour", second, (50, 100), shadow=shadow),
        )
        self.rate = RateLimit("r0", "requests", 2, 3 * MICRO, burst, REFILL)
        self.slots = ConcurrencyLimit("c0", slots)

    # Steps

    @rule(step=st.integers(0, 3 * MICRO) | st.just(LEASE) | st.integers(0, 2 * HOUR))
    def time_passes(self, step: int) -> None:
        self.both.now += step

    @rule(step=st.integers(1, HOUR // 2))
    def the_clock_steps_back(self, step: int) -> None:
        self.both.now = max(START, self.both.now - step)

    @rule(costs=st.tuples(COSTS, COSTS, COSTS), forced=st.booleans())
    def call(self, costs: tuple[int, int, int], *, forced: bool) -> None:
        self._reserve(self._claims(costs, forced=forced), None)

    @rule(
        costs=st.tuples(COSTS, COSTS, COSTS), forced=st.booleans(), sidecar=SIDECARS,
        orphans=st.sampled_from(["charge", "release"]), late=st.booleans(),
    )  # fmt: skip
    def held_call(
        self, costs: tuple[int, int, int], *, forced: bool, sidecar: str, orphans: str, late: bool
    ) -> None:
        if len(self.calls) < MOST_OPEN:
            self._end_leases()
            claims = [*self._claims(costs, forced=forced), Claim(self.slots, 1, forced)]
            self._reserve(claims, Hold(self._name(), LEASE, orphans, late=late), sidecar)  # type: ignore[arg-type]

    @rule(sidecar=SIDECARS, costs=st.tuples(COSTS, COSTS, COSTS), which=st.integers(0, MOST_OPEN))
    def settlement(self, sidecar: str, costs: tuple[int, int, int], which: int) -> None:
        mine = [name for name, one in self.calls.items() if one.sidecar == sidecar]
        if not mine:
            return
        name = mine[which % len(mine)]
        call = self.calls.pop(name)
        real = [Claim(claim.limit, cost, claim.forced)
                for claim, cost in zip(call.claims, (*costs, 1), strict=True)]  # fmt: skip
        known = self.both.settle(name, real).granted
        assert known is not (call.ended and call.rule == "release")
        if known:
            for before, after in zip(call.claims, real, strict=True):
                self._correct(call, before, after.cost - before.cost)
        before_again = self.both.stored()
        assert not self.both.settle(name, real).granted
        assert self.both.stored() == before_again

    @rule(sidecar=SIDECARS)
    def sign_of_life(self, sidecar: str) -> None:
        mine = [name for name, one in self.calls.items() if one.sidecar == sidecar]
        for name in mine:
            if not self.calls[name].ended:
                self.calls[name].until = self.both.now + LEASE
        self.both.renew(mine, LEASE)

    @rule(sidecar=SIDECARS, soon=st.booleans())
    def death(self, sidecar: str, *, soon: bool) -> None:
        """The sidecar dies. The leases of its requests expire."""
        for call in self.calls.values():
            if call.sidecar == sidecar:
                call.sidecar = "dead"
        if soon:
            self.both.now += LEASE
            self.held_call((0, 0, 0), forced=True, sidecar=sidecar, orphans="charge", late=False)

    @rule(
        quota=st.sampled_from(QUOTAS),
        units=st.integers(1, 20),
        lasts=st.sampled_from([1, HOUR, 5 * HOUR]),
    )
    def pack(self, quota: str, units: int, lasts: int) -> None:
        self.both.grant(Grant(self._name(), quota, units, self.both.now + lasts, 0))
        self.granted[quota] += units

    @rule(costs=st.tuples(COSTS, COSTS), late=st.integers(0, 2 * HOUR))
    def charge_after_the_fact(self, costs: tuple[int, int], late: int) -> None:
        """Requests that were allowed without Redis are charged twice."""
        claims = [Claim(quota, cost, forced=True)
                  for quota, cost in zip(self.quotas, costs, strict=True)]  # fmt: skip
        self.number += 1
        entries = JournalEntries(f"j{self.number}", 1, 1, (0, 0))
        assert self.both.charge(claims, late, entries) == 1
        for field, cost in zip(QUOTAS, costs, strict=True):
            if self._since(field) <= self.both.now - late:
                self.tally[field, self._since(field)] += cost
        assert self.both.charge(claims, late, entries) == 0

    # Invariants after each step

    @invariant()
    def counters_and_what_packs_paid_are_the_events(self) -> None:  # I5
        self.latest = max(self.latest, self.both.now)
        self._note_what_packs_paid()
        for field in QUOTAS:
            at = field, self._since(field)
            counted = self.both.ledger.states.get(field, EMPTY).used + self.paid[at]
            # An expired pack still paid what it paid.
            assert counted == self.tally[at] or (field in self.over and counted > self.tally[at])

    @invariant()
    def slots_are_those_of_requests_with_a_lease(self) -> None:  # I5
        held = [one for one in self.calls.values() if not one.ended]
        assert self.both.ledger.states.get("c/c0", EMPTY).used == len(held)

    # The test's own arithmetic

    def _name(self) -> str:
        self.number += 1
        return f"n{self.number}"

    def _since(self, field: str) -> int:
        return self.both.ledger.states.get(field, EMPTY).since_us

    def _claims(self, costs: tuple[int, int, int], *, forced: bool) -> list[Claim]:
        limits = (*self.quotas, self.rate)
        return [Claim(limit, cost, forced) for limit, cost in zip(limits, costs, strict=True)]

    def _reserve(self, claims: list[Claim], hold: Hold | None, sidecar: str = "") -> None:
        """`Both` checks that a refusal changes nothing (I2)."""
        answer = self.both.reserve(claims, hold)
        if not answer.granted:
            return
        poured = answer.ends_us[2] != -1
        since = {field: self._since(field) for field in QUOTAS}
        for field, claim in zip(QUOTAS, claims, strict=False):
            self.tally[field, since[field]] += claim.cost
            limit = claim.limit
            assert isinstance(limit, QuotaLimit)
            if claim.cost and not claim.forced and not limit.shadow:  # I1
                assert self.tally[field, since[field]] <= limit.cap + self.granted[field]
        self._pour(claims[2].cost if poured else 0)
        if claims[2].cost and not claims[2].forced:  # I1
            assert self.level <= self.rate.burst
        if hold is not None:
            if not claims[3].forced:  # I1
                assert 1 + sum(not one.ended for one in self.calls.values()) <= self.slots.slots
            until = self.both.now + LEASE
            self.calls[hold.id] = Call(sidecar, hold.orphans, claims, since, until, poured)

    def _pour(self, cost: int) -> None:
        now = max(self.both.now, self.level_at)
        back = Fraction(*REFILL) * (now - self.level_at) / MICRO
        self.level, self.level_at = max(Fraction(0), self.level - back), now
        self.level = max(Fraction(0), self.level + cost)

    def _correct(self, call: Call, claim: Claim, units: int) -> None:
        if isinstance(claim.limit, QuotaLimit):
            field = f"q/{claim.limit.id}"
            self.tally[field, call.since[field]] += units
        elif isinstance(claim.limit, RateLimit) and call.poured:
            self._pour(0)
            if claim.forced:
                units = min(units, max(0, 2 * claim.limit.burst - int(self.level)))
            self._pour(units)

    def _end_leases(self) -> None:
        """End the leases that the next open reservation ends."""
        for name, call in list(self.calls.items()):
            if call.until > self.both.now or call.ended:
                continue
            call.ended = True
            if call.rule == "release":
                for claim in call.claims:
                    self._correct(call, claim, -claim.cost)
            if call.sidecar == "dead":
                del self.calls[name]

    def _note_what_packs_paid(self) -> None:
        for grant in self.both.ledger.grants:
            more = grant.used - self.noted_of_packs[grant.id]
            self.noted_of_packs[grant.id] = grant.used
            self.paid[grant.field, self._since(grant.field)] += more
            if grant.used and grant.expires_us <= self.latest:
                self.over.add(grant.field)


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=False) as connection:
        yield connection


def test_I1_I2_I5_hold_after_every_step_of_an_accounts_life(client: redis.Redis) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Account(client),
        settings=settings(
            max_examples=80, stateful_step_count=40, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
