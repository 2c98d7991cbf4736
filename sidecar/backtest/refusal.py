"""Which limit refuses a replayed request, and after which wait the request would fit."""

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from typing import NamedTuple

from sidecar.backtest.counters import ENFORCED, ClaimSet, QuotaLevel, SlotRow, drained
from sidecar.backtest.teams import Period, ShareRow, fits, guarantees, max_cost
from sidecar.core.kinds import Limit
from sidecar.core.reasons import Reason


class ReplayedRefusal(NamedTuple):
    """The limit that refuses. `wait_us`: after how long the request would fit; None: never."""

    limit: Limit
    reason: Reason
    wait_us: int | None


_Ranked = tuple[tuple[int, int, int], ReplayedRefusal]


def first_refusal(claims: ClaimSet, quotas: Sequence[QuotaLevel], at: int) -> ReplayedRefusal:
    """Return the first_refusal that `decision.decide` puts first.

    First come limits that never recover, then the one that recovers last. Slots come after these,
    because the gate cannot know when a slot becomes free.
    """
    refusals = [
        *_rates(claims, at),
        *_quotas(claims, quotas, at),
        *_shares(claims, quotas, at),
        *_slots(claims, at),
    ]
    return min(refusals, key=lambda one: one[0])[1]


def wait_us(claims: ClaimSet, quotas: Sequence[QuotaLevel], at: int) -> int | None:
    """Return for how long (µs) a request that does not fit would wait; None: it is refused."""
    refusals = [one for _, one in (*_rates(claims, at), *_slots(claims, at))]
    waits = [one.wait_us for one in refusals]
    if None in waits or any((*_quotas(claims, quotas, at), *_shares(claims, quotas, at))):
        return None
    max_wait_us = min(one.limit.max_wait_us for one in refusals)
    longest = max(wait for wait in waits if wait is not None)
    return longest if longest <= max_wait_us else None


def _rates(claims: ClaimSet, at: int) -> Iterator[_Ranked]:
    for row in claims.rates:
        over = drained(row, at)[0] + row.weight - row.cap
        if row.mode == ENFORCED and over > 0:
            wait = None if row.weight > row.cap else -(-over * row.per // row.gain)
            guard = row.limit is claims.entitlement.plan.critical_guard
            yield _ranked(claims, row.limit, Reason.ABUSE if guard else Reason.RATE, wait)


def _quotas(claims: ClaimSet, quotas: Sequence[QuotaLevel], at: int) -> Iterator[_Ranked]:
    most = {one.quota: max_cost(one, claims.quotas[one.quota].limit) for one in claims.shares}
    for number, row in enumerate(claims.quotas):
        used, carried, _, end, _ = quotas[number]
        if row.mode == ENFORCED and used + row.cost > row.cap + carried:
            wait = None if row.cost > most.get(number, row.cap) else end - at
            if wait is not None and row.counter.ran_out_us is None:
                row.counter.ran_out_us, row.counter.units = at, row.limit.units
            yield _ranked(claims, row.limit, Reason.QUOTA, wait)


def period_of(level: QuotaLevel, at: int) -> Period:
    """Return the quota's period with the instant `at` in it."""
    return Period(level[2], level[3], at)


def leaves_guarantees(claims: ClaimSet, quotas: Sequence[QuotaLevel], at: int) -> bool:
    """Whether a request leaves the guarantees of other teams untouched, or need not."""
    return next(_shares(claims, quotas, at), None) is None


def is_short(claims: ClaimSet, row: ShareRow, quotas: Sequence[QuotaLevel], at: int) -> bool:
    """Whether the request uses up its team's guarantee and cuts into the guarantees of others."""
    left = guarantees(row, period_of(quotas[row.quota], at))
    remaining = _remaining(claims, row, quotas) - row.cost
    return left.own <= row.cost and remaining < left.others


def _remaining(claims: ClaimSet, row: ShareRow, quotas: Sequence[QuotaLevel]) -> int:
    used, carried, _, _, _ = quotas[row.quota]
    return claims.quotas[row.quota].cap + carried - used


def _shares(claims: ClaimSet, quotas: Sequence[QuotaLevel], at: int) -> Iterator[_Ranked]:
    for row in claims.shares:
        quota, remaining = claims.quotas[row.quota], _remaining(claims, row, quotas)
        if quota.mode != ENFORCED or row.cost > remaining:
            continue  # the quota itself refuses
        level = quotas[row.quota]
        if not fits(row, guarantees(row, period_of(level, at)), remaining):
            wait = None if row.cost > max_cost(row, quota.limit) else level[3] - at
            yield _ranked(claims, quota.limit, Reason.QUOTA, wait)


def _slots(claims: ClaimSet, at: int) -> Iterator[_Ranked]:
    for row in claims.slots:
        if row.mode == ENFORCED and len(row.taken.ends) >= row.cap:
            position = claims.order[id(row.limit)]
            yield (
                (2, 0, position),
                ReplayedRefusal(row.limit, Reason.CONCURRENCY, _slot_wait(row, at)),
            )


def _slot_wait(row: SlotRow, at: int) -> int | None:
    """Return after how long (µs) a slot becomes free: a replay knows it, unlike the gate."""
    ends = row.taken.ends
    return nsmallest(len(ends) + 1 - row.cap, ends)[-1] - at if row.cap else None


def _ranked(claims: ClaimSet, limit: Limit, reason: Reason, wait: int | None) -> _Ranked:
    rank = (0, 0) if wait is None else (1, -wait)
    return (*rank, claims.order[id(limit)]), ReplayedRefusal(limit, reason, wait)
