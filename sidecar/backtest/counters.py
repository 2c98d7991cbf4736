"""What a replay keeps of one account: counters as plain integers, and what a plan says of a call
as rows of numbers. Made for millions of calls; `core/limits.py` is what they have to come to.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sidecar.backtest.teams import ShareRow, Teams
from sidecar.core.events.read import Units
from sidecar.core.limits import State
from sidecar.core.model import (
    MICRO,
    UNBOUNDED,
    ConcurrencyLimit,
    Entitlement,
    QuotaLimit,
    RateLimit,
    TeamShare,
)

ENFORCED: Final = 0
FORCED: Final = 1  # counted, whatever it comes to
SHADOW: Final = 2  # the same, and told; of rates only what fits is counted

Name = tuple[str, str | None]  # a limit's id, and the key's for a limit per key


class Bucket:
    """A rate's counter: micro-units used at `since`."""

    __slots__ = ("since", "used")

    def __init__(self) -> None:
        self.used = self.since = 0


class QuotaCounter:
    """A quota's counter in the period from `since` to `end`; and what became of the quota.

    `ran_out_us`: when it was first used up; `peak`: the most that was used in one period; `units`:
    what the plan gave for one, when it ran out or else last.
    """

    __slots__ = ("carried", "end", "peak", "period", "ran_out_us", "since", "units", "used")

    def __init__(self) -> None:
        self.used = self.since = self.carried = self.peak = self.units = 0
        self.end, self.period = -1, ""
        self.ran_out_us: int | None = None


class Slots:
    """When each call in flight ends: a heap."""

    __slots__ = ("ends",)

    def __init__(self) -> None:
        self.ends: list[int] = []


class RateRow(NamedTuple):
    """`weight` micro-units into a bucket of `cap`; `gain` come back every `per` µs."""

    bucket: Bucket
    weight: int
    cap: int
    gain: int
    per: int
    mode: int
    limit: RateLimit


class QuotaRow(NamedTuple):
    """`cost` units of a quota that refuses beyond `cap`."""

    counter: QuotaCounter
    cost: int
    cap: int
    mode: int
    limit: QuotaLimit


class SlotRow(NamedTuple):
    """One of so many slots."""

    taken: Slots
    cap: int
    mode: int
    limit: ConcurrencyLimit


class Program(NamedTuple):
    """What one kind of call asks. `order`: the places of the claims, by the id() of the limit."""

    entitlement: Entitlement
    rates: tuple[RateRow, ...]
    quotas: tuple[QuotaRow, ...]
    slots: tuple[SlotRow, ...]
    shares: tuple[ShareRow, ...]
    costs: Units
    order: Mapping[int, int]
    refunds: bool  # the plan gives something back
    shadows: bool  # some limit is in shadow
    waits: bool  # some limit lets calls wait


# A bucket with a call in it: used, since, and False for one in shadow that did not fit.
Level = tuple[Bucket, int, int, bool]
# A quota's counter at an instant: used, carried, since, end.
Stand = tuple[int, int, int, int]


class States:
    """The counters of one account."""

    def __init__(self) -> None:
        self.buckets: defaultdict[Name, Bucket] = defaultdict(Bucket)
        self.counters: defaultdict[Name, QuotaCounter] = defaultdict(QuotaCounter)
        self.slots: defaultdict[Name, Slots] = defaultdict(Slots)
        self.teams: defaultdict[str, Teams] = defaultdict(lambda: defaultdict(State))

    def program(self, entitlement: Entitlement, key: str, usage: Units) -> Program:
        """An entitlement on these counters. Of meters that are known late, the recorded usage is
        the cost; of others, what the plan file says."""
        costs = _costs(entitlement, usage)
        rates, slots, shares = [], [], []
        quotas: list[QuotaRow] = []
        for claim in entitlement.claims:
            limit = claim.limit
            name = limit.id, key if limit.per == "key" else None
            mode = FORCED if claim.forced else SHADOW if limit.shadow else ENFORCED
            guard = limit is entitlement.plan.critical_guard
            cost = claim.cost if guard else costs.get(limit.meter, claim.cost)
            if isinstance(limit, RateLimit):
                cap, weight = limit.burst * MICRO, cost * MICRO
                bucket = self.buckets[name]
                rates.append(RateRow(bucket, weight, cap, *limit.refill, mode, limit))
            elif isinstance(limit, TeamShare):
                shares.append(ShareRow(self.teams[limit.id], cost, limit, len(quotas) - 1))
            elif isinstance(limit, QuotaLimit):
                quotas.append(QuotaRow(self.counters[name], cost, limit.cap, mode, limit))
            else:
                slots.append(SlotRow(self.slots[name], limit.slots, mode, limit))
        return Program(
            entitlement, tuple(rates), tuple(quotas), tuple(slots), tuple(shares),
            tuple(costs.items()),
            {id(claim.limit): place for place, claim in enumerate(entitlement.claims)},
            bool(entitlement.plan.refunds),
            any(claim.limit.shadow for claim in entitlement.claims),
            any(getattr(claim.limit, "max_wait_us", 0) for claim in entitlement.claims),
        )  # fmt: skip


def _costs(entitlement: Entitlement, usage: Units) -> dict[str, int]:
    late = {meter for meter, _ in entitlement.settles}
    late |= {meter for meter, _ in entitlement.estimates}
    told = {meter: units for meter, units in usage if meter in late}
    return dict(entitlement.route.cost) | told


def drained(row: RateRow, at: int) -> tuple[int, int]:
    """`limits.drained` on plain integers: used, since."""
    bucket, per, gain = row.bucket, row.per, row.gain
    used, since = bucket.used, bucket.since
    now = max(at, since)
    if used <= 0:
        return 0, now
    elapsed = now - since
    if elapsed >= -(-used * per // gain):
        return 0, now
    back = elapsed * gain // per
    return used - back, since + -(-back * per // gain)


def levels(rates: Sequence[RateRow], at: int, *, held: bool = False) -> list[Level] | None:
    """The buckets with the call in them; None when it does not fit. Of a call that is `held` until
    it does they take it now: those behind it find what it leaves."""
    found = []
    for row in rates:
        used, since = drained(row, at)
        after, counted = used + row.weight, True
        if after > row.cap and row.mode != FORCED:
            if row.mode == SHADOW:
                after, counted = used, False
            elif not held:
                return None
        found.append((row.bucket, min(after, UNBOUNDED), since, counted))
    return found


def free(slots: Sequence[SlotRow]) -> bool:
    """Whether there is a slot of each kind."""
    return not any(row.mode == ENFORCED and len(row.taken.ends) >= row.cap for row in slots)
