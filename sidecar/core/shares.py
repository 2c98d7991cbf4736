"""What one of several sidecars may let pass alone, while nobody can ask what the others do.

Each takes the same part of what was left when it last looked, rounded down, so that the parts
together are never more than the whole. Only two things are rounded up, or nothing would pass at
all: a bucket holds at least one unit, and there is at least one slot. With more sidecars than a
limit has units or slots, that is where they exceed it together.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.limits import State, drained
from sidecar.core.model import (
    MICRO,
    Claim,
    ConcurrencyLimit,
    Guarantee,
    Limit,
    QuotaLimit,
    RateLimit,
    TeamShare,
)
from sidecar.core.survey import weight


class Snapshot(NamedTuple):
    """One limit as Redis last showed it: micro-units for rates, units for quotas."""

    now_us: int
    used: int
    end_us: int = 0  # of the quota's period
    more: int = 0  # units beside the plan's own (carried over, left in grants); kept for a team


NEVER_SEEN = Snapshot(0, 0)


def looks(claims: Sequence[Claim], answer: Answer) -> tuple[Snapshot, ...]:
    """What an answer shows of the claims' limits, in their order."""
    besides = answer.besides or (QuotaDetail(),) * len(claims)
    return tuple(
        Snapshot(
            answer.now_us,
            used,
            end,
            more.told if isinstance(claim.limit, TeamShare) else more.carried + more.left,
        )
        for claim, used, end, more in zip(claims, answer.used, answer.ends_us, besides, strict=True)
    )


def in_period(look: Snapshot, now_us: int) -> Snapshot:
    """The look, or an empty one when what it saw of a quota is over."""
    return look if now_us < look.end_us else NEVER_SEEN


def share_of(limit: Limit, look: Snapshot, ways: int, now_us: int) -> Limit:
    """The limit as one of `ways` sidecars may use it, counting from nothing; its own id. Not for
    what teams have of a quota: see `team_share_of`."""
    if isinstance(limit, QuotaLimit):
        seen = in_period(look, now_us)
        units = max(0, limit.cap + seen.more - seen.used) // ways
        return replace(limit, units=units, cap=units, notices=(), rollover=0)
    if isinstance(limit, ConcurrencyLimit):
        return replace(limit, slots=max(1, limit.slots // ways) if limit.slots else 0)
    gain, span = limit.refill
    return replace(limit, burst=max(1, limit.burst // ways), refill=(gain, span * ways))


def team_share_of(
    share: TeamShare, look: Snapshot, others: Sequence[Snapshot], ways: int, now_us: int
) -> TeamShare:
    """What one of `ways` sidecars keeps for a team and for the others: its part of what was kept,
    and all of a guarantee counts as kept that was not looked at in this period. It lends nothing
    more than had been lent by then."""

    def kept(units: int, seen: Snapshot) -> int:
        return (seen.more if now_us < seen.end_us else units) // ways

    parts = tuple(
        Guarantee(other.team, kept(other.units, seen), False)
        for other, seen in zip(share.others, others, strict=True)
    )
    return replace(share, units=kept(share.units, look), lends=False, others=parts)


def filled(limit: RateLimit, share: RateLimit, look: Snapshot, ways: int, now_us: int) -> State:
    """The share's bucket at its start: what was left of the whole is divided like the rest."""
    used = drained(limit, State(look.used, look.now_us), now_us).used
    left = max(0, limit.burst * MICRO - used) // ways
    return State(max(0, share.burst * MICRO - left), now_us)


class Own(NamedTuple):
    """A claim that was decided by a share: how the share stands after it."""

    claim: Claim
    share: Limit
    used: int  # of the share, in its unit


def as_a_whole(own: Own, look: Snapshot, now_us: int) -> tuple[int, QuotaDetail]:
    """How the whole limit stands as far as this sidecar knows, for `decision.decide`.

    A quota: what was seen and what was let pass since. A bucket: so much used that a call waits
    as long as the share makes it wait. A claim that its share is too small for fits the whole by
    this: whether it really does, nobody can tell.
    """
    limit, share = own.claim.limit, own.share
    if isinstance(limit, QuotaLimit):
        seen = in_period(look, now_us)
        more = 0 if isinstance(limit, TeamShare) else seen.more
        return seen.used + own.used, QuotaDetail(carried=more)
    if isinstance(limit, ConcurrencyLimit) or not isinstance(share, RateLimit):
        return own.used, QuotaDetail()
    over = own.used + weight(own.claim) - share.burst * MICRO
    if own.claim.cost > share.burst or over <= 0:
        return max(0, min(own.used, (limit.burst - own.claim.cost) * MICRO)), QuotaDetail()
    gain, span = share.refill
    wait = -(over * span // -gain)
    whole_gain, whole_span = limit.refill
    return (limit.burst - own.claim.cost) * MICRO + -(
        wait * whole_gain // -whole_span
    ), QuotaDetail()
