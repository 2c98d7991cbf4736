"""Local shares: the part of each limit that one sidecar may use while Redis is unavailable.

Each sidecar takes an equal part of what was left when Redis last answered, rounded down, so that
the parts together never exceed the whole. Two things are rounded up, because nothing would be
allowed otherwise: a bucket holds at least one unit, and there is at least one slot. With more
sidecars than a limit has units or slots, they exceed it together.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.counting.counters import State
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.limits import drained
from sidecar.core.kinds import (
    MICRO,
    TEAM,
    ConcurrencyLimit,
    Guarantee,
    Limit,
    PeriodLimit,
    QuotaLimit,
    RateLimit,
    TeamShare,
)
from sidecar.core.model import Claim


class Snapshot(NamedTuple):
    """One limit as Redis last reported it: micro-units for rates, units for quotas.

    `end_us`: of the quota's period. `more`: carried-over units and grants of a quota; what is left
    of a team's guarantee. `counts`: see `counts.py`; 0: unknown.
    """

    now_us: int
    used: int
    end_us: int = 0
    more: int = 0
    counts: int = 0


NEVER_SEEN = Snapshot(0, 0)


def snapshots_of(claims: Sequence[Claim], answer: Answer) -> tuple[Snapshot, ...]:
    """Return what an answer reports of the claims' limits, in their order."""
    details = answer.details or (QuotaDetail(),) * len(claims)
    return tuple(
        Snapshot(
            answer.now_us,
            used,
            end,
            more.notified if claim.limit.kind is TEAM else more.carried + more.left,
            counts_of(claim.limit),
        )
        for claim, used, end, more in zip(claims, answer.used, answer.ends_us, details, strict=True)
    )


def snapshot_for(limit: Limit, snapshot: Snapshot, now_us: int) -> Snapshot:
    """Return the snapshot, or an empty one.

    It is empty if it is not of what the limit counts now, or of a quota's period that is over.
    """
    if snapshot.counts not in (0, counts_of(limit)):
        return NEVER_SEEN
    if isinstance(limit, PeriodLimit) and now_us >= snapshot.end_us:
        return NEVER_SEEN
    return snapshot


def local_share(limit: Limit, snapshot: Snapshot, sidecars: int, now_us: int) -> Limit:
    """Return one sidecar's part of a limit, counted from nothing, under the limit's id.

    Not for a team's share: see `local_team_share`.
    """
    if isinstance(limit, QuotaLimit):
        known = snapshot_for(limit, snapshot, now_us)
        cap = max(0, limit.cap + known.more - known.used) // sidecars
        # Overage begins where the whole quota is used up: this sidecar does not know the others.
        units = max(0, limit.units + known.more - known.used)
        return replace(limit, units=units, cap=cap, notices=(), rollover=0)
    if isinstance(limit, ConcurrencyLimit):
        return replace(limit, slots=max(1, limit.slots // sidecars) if limit.slots else 0)
    if isinstance(limit, RateLimit):
        gain, span = limit.refill
        burst = max(1, limit.burst // sidecars)
        return replace(limit, burst=burst, refill=(gain, span * sidecars))
    raise TypeError("a team's share is divided by local_team_share")


def local_team_share(
    share: TeamShare, snapshot: Snapshot, others: Sequence[Snapshot], sidecars: int, now_us: int
) -> TeamShare:
    """Return one sidecar's part of what is left of the guarantees of a team and of the `others`.

    Without a snapshot from this period, all of a guarantee counts as left. While Redis is
    unavailable, nothing more is lent.
    """

    def left(units: int, snapshot: Snapshot) -> int:
        known = snapshot_for(share, snapshot, now_us)
        return (units if known is NEVER_SEEN else known.more) // sidecars

    parts = tuple(
        Guarantee(other.team, left(other.units, known), False)
        for other, known in zip(share.others, others, strict=True)
    )
    return replace(share, units=left(share.units, snapshot), lends=False, others=parts)


def initial_bucket(
    limit: RateLimit, share: RateLimit, snapshot: Snapshot, sidecars: int, now_us: int
) -> State:
    """Return the share's first bucket: what was left of the whole is divided like the rest."""
    known = snapshot_for(limit, snapshot, now_us)
    used = drained(limit, State(known.used, known.now_us), now_us).used
    left = max(0, limit.full - used) // sidecars
    return State(max(0, share.full - left), now_us)


class LocalClaim(NamedTuple):
    """A claim that was decided by a local share. `used`: of the share, in its counter's unit."""

    claim: Claim
    share: Limit
    used: int


def whole_limit(local: LocalClaim, snapshot: Snapshot, now_us: int) -> tuple[int, QuotaDetail]:
    """Return the whole limit's counter as far as this sidecar knows, for `decision.decide`.

    A quota: what the snapshot has, and what this sidecar allowed since. A bucket: so much used that
    a request waits as long as the share makes it wait. A claim that does not fit the share then
    fits the whole: whether it really does is unknown.
    """
    limit, share, cost = local.claim.limit, local.share, local.claim.cost
    if isinstance(limit, QuotaLimit):
        known = snapshot_for(limit, snapshot, now_us)
        return known.used + local.used, QuotaDetail(carried=known.more)
    if isinstance(limit, TeamShare):
        return snapshot_for(limit, snapshot, now_us).used + local.used, QuotaDetail()
    if not isinstance(limit, RateLimit) or not isinstance(share, RateLimit):
        return local.used, QuotaDetail()
    over = local.used + limit.weight(cost) - share.full
    room = (limit.burst - cost) * MICRO
    if cost > share.burst or over <= 0:
        return max(0, min(local.used, room)), QuotaDetail()
    gain, span = share.refill
    wait = -(over * span // -gain)
    whole_gain, whole_span = limit.refill
    return room + -(wait * whole_gain // -whole_span), QuotaDetail()
