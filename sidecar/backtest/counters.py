"""The counters of one replayed account as plain integers, and the claims on them as rows.

Made for millions of requests. `core/counting/limits.py` is the reference: both must
give the same result.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sidecar.backtest.teams import ShareRow, Teams
from sidecar.core.counting.counters import State
from sidecar.core.events.read import Units
from sidecar.core.kinds import MICRO, UNBOUNDED, ConcurrencyLimit, QuotaLimit, RateLimit, TeamShare
from sidecar.core.model import Entitlement

# How a limit treats a request that does not fit.
ENFORCED: Final = 0  # refuse it
FORCED: Final = 1  # charge it
SHADOW: Final = 2  # allow it and report it; a quota charges it, a rate does not

CounterName = tuple[str, str | None]  # a limit's id, and the key's for a limit per key


class Bucket:
    """The counter of a rate: `used` micro-units at the instant `since` (µs)."""

    __slots__ = ("since", "used")

    def __init__(self) -> None:
        self.used = self.since = 0


class QuotaCounter:
    """The counter of a quota in the period from `since` to `end` (µs), and its history.

    `limit`: the quota that was charged last. `settled`: units that are not overage. `suspended`: as
    in `core/counting/counters.py`.

    `ran_out_us`: when the quota was first used up, or None. `peak`: the highest use in one period.
    `units`: the units of the plan per period, at `ran_out_us` if it is set, else at the end.
    """

    __slots__ = (
        "carried",
        "end",
        "limit",
        "over",
        "peak",
        "ran_out_us",
        "settled",
        "since",
        "suspended",
        "units",
        "used",
    )

    def __init__(self) -> None:
        self.used = self.since = self.carried = self.end = self.peak = self.units = 0
        self.settled = self.over = 0
        self.suspended: tuple[State, ...] = ()
        self.limit: QuotaLimit | None = None
        self.ran_out_us: int | None = None


class Slots:
    """The slots in use of a concurrency limit: a heap of the instants (µs) at which they end."""

    __slots__ = ("ends",)

    def __init__(self) -> None:
        self.ends: list[int] = []


class RateRow(NamedTuple):
    """A claim of `weight` micro-units on a bucket of `cap`, which regains `gain` every `per` µs."""

    bucket: Bucket
    weight: int
    cap: int
    gain: int
    per: int
    mode: int
    limit: RateLimit


class QuotaRow(NamedTuple):
    """A claim of `cost` units on a quota that refuses beyond `cap`."""

    counter: QuotaCounter
    cost: int
    cap: int
    mode: int
    limit: QuotaLimit


class SlotRow(NamedTuple):
    """A claim of one of `cap` slots."""

    taken: Slots
    cap: int
    mode: int
    limit: ConcurrencyLimit


class ClaimSet(NamedTuple):
    """The claims of one kind of request, by kind of limit.

    `costs`: the cost per meter. `order`: the position of each claim, by the id() of its limit.
    """

    entitlement: Entitlement
    rates: tuple[RateRow, ...]
    quotas: tuple[QuotaRow, ...]
    slots: tuple[SlotRow, ...]
    shares: tuple[ShareRow, ...]
    costs: Units
    order: Mapping[int, int]
    refunds: bool  # the plan refunds some outcomes
    shadows: bool  # at least one limit is in shadow
    waits: bool  # at least one limit lets requests wait


# A bucket with the request charged: used, since, and False if it did not fit one in shadow.
BucketLevel = tuple[Bucket, int, int, bool]
# The counter of a quota at an instant: used, carried, since, end, and its state if it is not the
# counter that was used last.
QuotaLevel = tuple[int, int, int, int, State | None]


class AccountCounters:
    """The counters of one account, by limit."""

    def __init__(self) -> None:
        self.buckets: defaultdict[CounterName, Bucket] = defaultdict(Bucket)
        self.quotas: defaultdict[CounterName, QuotaCounter] = defaultdict(QuotaCounter)
        self.slots: defaultdict[CounterName, Slots] = defaultdict(Slots)
        self.teams: defaultdict[str, Teams] = defaultdict(lambda: defaultdict(State))

    def claims(self, entitlement: Entitlement, key: str, usage: Units) -> ClaimSet:
        """Return the claims of an entitlement on these counters.

        The cost of a meter with `settle` or an estimate is the recorded usage. The cost of any
        other meter comes from the plan file.
        """
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
                quotas.append(QuotaRow(self.quotas[name], cost, limit.cap, mode, limit))
            else:
                slots.append(SlotRow(self.slots[name], limit.slots, mode, limit))
        return ClaimSet(
            entitlement,
            tuple(rates),
            tuple(quotas),
            tuple(slots),
            tuple(shares),
            tuple(costs.items()),
            {id(claim.limit): position for position, claim in enumerate(entitlement.claims)},
            bool(entitlement.plan.refunds),
            any(claim.limit.shadow for claim in entitlement.claims),
            any(claim.limit.max_wait_us for claim in entitlement.claims),
        )


def _costs(entitlement: Entitlement, usage: Units) -> dict[str, int]:
    late = {meter for meter, _ in entitlement.settles}
    late |= {meter for meter, _ in entitlement.estimates}
    actual = {meter: units for meter, units in usage if meter in late}
    return dict(entitlement.route.cost) | actual


def drained(row: RateRow, at: int) -> tuple[int, int]:
    """Return (used, since) of the row's bucket at `at`: `limits.drained` on plain integers."""
    bucket, per, gain = row.bucket, row.per, row.gain
    used, since = bucket.used, bucket.since
    now = max(at, since)
    if used <= 0:
        return 0, now
    elapsed = now - since
    if elapsed >= -(-used * per // gain):
        return 0, now
    regained = elapsed * gain // per
    return used - regained, since + -(-regained * per // gain)


def levels(rates: Sequence[RateRow], at: int, *, waits: bool = False) -> list[BucketLevel] | None:
    """Return the buckets with the request charged, or None if it does not fit.

    With `waits` they charge it now even if it does not fit yet: it keeps its place in front of
    later requests.
    """
    charged = []
    for row in rates:
        used, since = drained(row, at)
        after, counted = used + row.weight, True
        if after > row.cap:
            if row.mode == FORCED:  # a debt of at most one burst or its own cost
                if after > max(2 * row.cap, row.cap + row.weight):
                    after, counted = used, False
            elif row.mode == SHADOW:
                after, counted = used, False
            elif not waits:
                return None
        charged.append((row.bucket, min(after, UNBOUNDED), since, counted))
    return charged


def has_free_slots(slots: Sequence[SlotRow]) -> bool:
    """Whether each enforced concurrency limit has a has_free_slots slot."""
    return not any(row.mode == ENFORCED and len(row.taken.ends) >= row.cap for row in slots)
