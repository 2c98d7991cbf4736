"""The state of each claimed limit at one instant, and whether the claim fits. Pure.

The first half of each operation in `account.py` and `corrections.py`, and of each script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.counting import limits, teams
from sidecar.core.counting.counters import EMPTY, State
from sidecar.core.counting.limits import Grant
from sidecar.core.kinds import UNBOUNDED, QuotaLimit, RateLimit, TeamShare
from sidecar.core.model import Claim
from sidecar.core.periods import NO_PERIOD, Window


class BoundClaim(NamedTuple):
    """One claim with the field of its limit in the account, and the window of its period.

    The claim on a team's share follows that on its quota; `others` are the fields of the other
    teams' shares.
    """

    field: str
    claim: Claim
    window: Window = NO_PERIOD
    others: tuple[str, ...] = ()


class ClaimedLimit(NamedTuple):
    """A claim's limit at one instant.

    `notified`: the highest percentage that was reported before. Of a team's share, `others` is what
    is left of the other teams' guarantees, and `room` what the quota still admits. `burned`: units
    that grants paid for the claim; `overage`: units that its event has to report.
    """

    bound: BoundClaim
    state: State
    end_us: int
    grants: list[Grant]  # live ones
    notified: int
    others: int = 0
    room: int = UNBOUNDED
    burned: int = 0
    overage: int = 0

    @property
    def left(self) -> int:
        """Units that the grants still hold."""
        return sum(grant.left for grant in self.grants)


def survey_limits(
    states: Mapping[str, State], grants: Sequence[Grant], claims: Sequence[BoundClaim], now_us: int
) -> list[ClaimedLimit]:
    """Return the claimed limits at `now_us`: drained, or in the current period."""
    surveyed, room = [], UNBOUNDED
    for bound in claims:
        limit, state = bound.claim.limit, states.get(bound.field, EMPTY)
        if isinstance(limit, TeamShare):
            one = _share(states, bound, limit, room, now_us)
        elif isinstance(limit, QuotaLimit):
            state, end = limits.current(limit, state, bound.window, now_us)
            live = limits.live_grants(grants, bound.field, state.counts, now_us)
            one = ClaimedLimit(bound, state, end, live, state.notified)
            room = limit.cap + state.carried + one.left - state.used
        else:
            if isinstance(limit, RateLimit):
                state = limits.drained(limit, state, now_us)
            one = ClaimedLimit(bound, state, 0, [], 0)
        surveyed.append(one)
    return surveyed


def _share(
    states: Mapping[str, State], bound: BoundClaim, share: TeamShare, room: int, now_us: int
) -> ClaimedLimit:
    """The share of a team in a quota that still admits `room` units."""
    window = bound.window
    start = window.start if now_us < window.end else window.end
    state, end = limits.current(share, states.get(bound.field, EMPTY), window, now_us)
    elapsed = teams.elapsed_percent(start, end, now_us)
    others = 0
    for other, field in zip(share.others, bound.others, strict=True):
        theirs, _ = limits.current(share, states.get(field, EMPTY), window, now_us)
        gone = teams.spent_guarantee(other.units, other.lends, theirs, elapsed)
        others += max(0, other.units - gone)
    spent = teams.spent_guarantee(share.units, share.lends, state, elapsed)
    state = replace(state, notified=spent)
    return ClaimedLimit(bound, state, end, [], spent, others, room)


def fits(one: ClaimedLimit) -> bool:
    """Whether the claim is granted, looked at alone."""
    claim, state = one.bound.claim, one.state
    limit = claim.limit
    if isinstance(limit, TeamShare):
        own = limit.units - state.notified
        return claim.cost <= max(0, own) or claim.cost + one.others <= one.room
    return state.used + limit.weight(claim.cost) <= limit.full + state.carried + one.left


def answer_of(surveyed: Sequence[ClaimedLimit], now_us: int, *, granted: bool) -> Answer:
    """Return a script's answer for these limits."""
    return Answer(
        granted,
        now_us,
        tuple(one.state.used for one in surveyed),
        tuple(one.end_us for one in surveyed),
        tuple(_detail(one, now_us) for one in surveyed),
    )


def _detail(one: ClaimedLimit, now_us: int) -> QuotaDetail:
    limit = one.bound.claim.limit
    if isinstance(limit, TeamShare):
        return QuotaDetail(max(0, limit.units - one.state.notified), 0, one.others, 0)
    if isinstance(limit, QuotaLimit):
        window, since_us = one.bound.window, one.state.since_us
        moved = since_us != (window.start if now_us < window.end else window.end)
        started_us = since_us if moved else 0
        return QuotaDetail(
            one.notified, one.state.carried, one.left, one.burned, one.overage, started_us
        )
    return QuotaDetail()
