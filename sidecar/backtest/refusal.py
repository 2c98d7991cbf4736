"""Which limit a replayed call is refused for, and when it would have fitted."""

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from typing import NamedTuple

from sidecar.backtest.counters import ENFORCED, Program, SlotRow, Stand, drained
from sidecar.backtest.teams import Period, ShareRow, fits, kept, most
from sidecar.core.model import Limit, QuotaLimit
from sidecar.core.reasons import Reason


class ReplayedRefusal(NamedTuple):
    """The limit that refuses, and after how many µs the call would fit; None: never."""

    limit: Limit
    reason: Reason
    wait_us: int | None


_Ranked = tuple[tuple[int, int, int], ReplayedRefusal]


def refusal(program: Program, stands: Sequence[Stand], at: int) -> ReplayedRefusal:
    """Of all limits that refuse, the one that `decision.decide` puts first: what never recovers,
    then what recovers last. A slot comes after these, since for the gate nobody can tell."""
    found = [
        *_rates(program, at),
        *_quotas(program, stands, at),
        *_shares(program, stands, at),
        *_slots(program, at),
    ]
    return min(found, key=lambda one: one[0])[1]


def held_us(program: Program, stands: Sequence[Stand], at: int) -> int | None:
    """For how many µs a call that does not fit would be held; None: it would be refused."""
    found = [one for _, one in (*_rates(program, at), *_slots(program, at))]
    waits = [one.wait_us for one in found]
    if None in waits or any((*_quotas(program, stands, at), *_shares(program, stands, at))):
        return None
    patience = min(
        0 if isinstance(one.limit, QuotaLimit) else one.limit.max_wait_us for one in found
    )
    longest = max(wait for wait in waits if wait is not None)
    return longest if longest <= patience else None


def _rates(program: Program, at: int) -> Iterator[_Ranked]:
    for row in program.rates:
        over = drained(row, at)[0] + row.weight - row.cap
        if row.mode == ENFORCED and over > 0:
            wait = None if row.weight > row.cap else -(-over * row.per // row.gain)
            guard = row.limit is program.entitlement.plan.critical_guard
            yield _ranked(program, row.limit, Reason.ABUSE if guard else Reason.RATE, wait)


def _quotas(program: Program, stands: Sequence[Stand], at: int) -> Iterator[_Ranked]:
    for row, (used, carried, _, end) in zip(program.quotas, stands, strict=True):
        if row.mode == ENFORCED and used + row.cost > row.cap + carried:
            wait = None if row.cost > row.cap else end - at
            if wait is not None and row.counter.ran_out_us is None:
                row.counter.ran_out_us, row.counter.units = at, row.limit.units
            yield _ranked(program, row.limit, Reason.QUOTA, wait)


def period_of(stand: Stand, at: int) -> Period:
    """The quota's period that `at` is in."""
    return Period(stand[2], stand[3], at)


def beside_teams(program: Program, stands: Sequence[Stand], at: int) -> bool:
    """Whether a call leaves what is kept for other teams, or need not."""
    return next(_shares(program, stands, at), None) is None


def is_short(program: Program, row: ShareRow, stands: Sequence[Stand], at: int) -> bool:
    """Whether the call leaves less than is kept for the others, and nothing for its team."""
    left = kept(row, period_of(stands[row.quota], at))
    room = _room(program, row, stands) - row.cost
    return left.own <= row.cost and room < left.others


def _room(program: Program, row: ShareRow, stands: Sequence[Stand]) -> int:
    used, carried, _, _ = stands[row.quota]
    return program.quotas[row.quota].cap + carried - used


def _shares(program: Program, stands: Sequence[Stand], at: int) -> Iterator[_Ranked]:
    for row in program.shares:
        quota, room = program.quotas[row.quota], _room(program, row, stands)
        if quota.mode != ENFORCED or row.cost > room:
            continue  # where the quota itself refuses, that is told
        stand = stands[row.quota]
        if not fits(row, kept(row, period_of(stand, at)), room):
            wait = None if row.cost > most(row, quota.limit) else stand[3] - at
            yield _ranked(program, quota.limit, Reason.QUOTA, wait)


def _slots(program: Program, at: int) -> Iterator[_Ranked]:
    for row in program.slots:
        if row.mode == ENFORCED and len(row.taken.ends) >= row.cap:
            place = program.order[id(row.limit)]
            yield (2, 0, place), ReplayedRefusal(row.limit, Reason.CONCURRENCY, _slot_wait(row, at))


def _slot_wait(row: SlotRow, at: int) -> int | None:
    """In a replay it is known when a slot becomes free."""
    ends = row.taken.ends
    return nsmallest(len(ends) + 1 - row.cap, ends)[-1] - at if row.cap else None


def _ranked(program: Program, limit: Limit, reason: Reason, wait: int | None) -> _Ranked:
    rank = (0, 0) if wait is None else (1, -wait)
    return (*rank, program.order[id(limit)]), ReplayedRefusal(limit, reason, wait)
