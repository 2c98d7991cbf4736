"""What a claim meets: its limit as it stands now, whether it fits, and what is said of that. Pure.

The first half of each operation in `ledger.py` and `afterwards.py`, and of each script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sidecar.core import limits, teams
from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.limits import EMPTY, Grant, State
from sidecar.core.model import MICRO, UNBOUNDED, Claim, QuotaLimit, RateLimit, TeamShare
from sidecar.core.periods import Window


class Ask(NamedTuple):
    """One claim, the field that its limit has in the account, and a quota's window. A claim on a
    team's share follows that on its quota, and has the fields of the other teams."""

    field: str
    claim: Claim
    window: Window | None = None
    others: tuple[str, ...] = ()


class ClaimedLimit(NamedTuple):
    """A claim's limit as it stands now. Of a team's share `others` is what is kept for the other
    teams, and `room` what the quota would still admit."""

    ask: Ask
    state: State
    end_us: int
    live: list[Grant]
    told: int  # before
    others: int = 0
    room: int = UNBOUNDED

    @property
    def left(self) -> int:
        return sum(grant.left for grant in self.live)


def see_all(
    states: Mapping[str, State], grants: Sequence[Grant], asks: Sequence[Ask], now_us: int
) -> list[ClaimedLimit]:
    """An account's limits as they stand now: drained, or in the period of now, with their live
    grants. `states` by field."""
    seen: list[ClaimedLimit] = []
    for ask in asks:
        one = _see(states.get(ask.field, EMPTY), grants, ask, now_us)
        if isinstance(ask.claim.limit, TeamShare):
            one = _see_teams(states, one, seen[-1] if seen else None, now_us)
        seen.append(one)
    return seen


def _see_teams(
    states: Mapping[str, State], seen: ClaimedLimit, quota: ClaimedLimit | None, now_us: int
) -> ClaimedLimit:
    share, window = seen.ask.claim.limit, seen.ask.window
    assert isinstance(share, TeamShare)  # noqa: S101 - the caller's contract
    assert window is not None  # noqa: S101
    start = window.start if now_us < window.end else window.end
    hundredths = teams.passed(start, seen.end_us, now_us)
    others = 0
    for other, name in zip(share.others, seen.ask.others, strict=True):
        state, _ = limits.current(share, states.get(name, EMPTY), window, now_us)
        lost = teams.gone(other.units, lends=other.lends, state=state, hundredths=hundredths)
        others += max(0, other.units - lost)
    lost = teams.gone(share.units, lends=share.lends, state=seen.state, hundredths=hundredths)
    room = UNBOUNDED if quota is None else _room(quota)
    return seen._replace(state=replace(seen.state, told=lost), others=others, room=room)


def _room(quota: ClaimedLimit) -> int:
    limit = quota.ask.claim.limit
    assert isinstance(limit, QuotaLimit)  # noqa: S101 - a share follows its quota
    return limit.cap + quota.state.carried + quota.left - quota.state.used


def _see(state: State, grants: Sequence[Grant], ask: Ask, now_us: int) -> ClaimedLimit:
    limit = ask.claim.limit
    if isinstance(limit, RateLimit):
        return ClaimedLimit(ask, limits.drained(limit, state, now_us), 0, [], 0)
    if isinstance(limit, QuotaLimit):
        assert ask.window is not None  # noqa: S101 - the caller's contract
        state, end = limits.current(limit, state, ask.window, now_us)
        live = [g for g in grants if g.field == ask.field and g.expires_us > now_us]
        return ClaimedLimit(ask, state, end, live, state.told)
    return ClaimedLimit(ask, state, 0, [], 0)


def weight(claim: Claim) -> int:
    """A claim's cost as its counter counts: micro-units, units, or one slot."""
    limit = claim.limit
    if isinstance(limit, RateLimit):
        return claim.cost * MICRO
    return claim.cost if isinstance(limit, QuotaLimit) else 1


def kind_of(claim: Claim) -> str:
    """What the scripts call the limit."""
    limit = claim.limit
    if isinstance(limit, RateLimit):
        return "rate"
    if isinstance(limit, TeamShare):
        return "team"
    return "quota" if isinstance(limit, QuotaLimit) else "slots"


def fits(seen: ClaimedLimit) -> bool:
    """Whether the claim is granted by itself."""
    claim, state = seen.ask.claim, seen.state
    limit = claim.limit
    if isinstance(limit, RateLimit):
        return state.used + weight(claim) <= limit.burst * MICRO
    if isinstance(limit, TeamShare):
        return claim.cost <= _kept(seen) or claim.cost + seen.others <= seen.room
    if isinstance(limit, QuotaLimit):
        return state.used + claim.cost <= limit.cap + state.carried + seen.left
    return state.used + 1 <= limit.slots


def _kept(share: ClaimedLimit) -> int:
    """For the team itself."""
    limit = share.ask.claim.limit
    assert isinstance(limit, TeamShare)  # noqa: S101 - the callers looked
    return max(0, limit.units - share.state.told)


def answer_of(
    seen: Sequence[ClaimedLimit], now_us: int, *, granted: bool, burned: Sequence[int] = ()
) -> Answer:
    """What a script says of these limits; `burned` is what grants paid, 0 for all if left out."""
    burned = burned or [0] * len(seen)
    besides = tuple(_besides(one, took) for one, took in zip(seen, burned, strict=True))
    return Answer(
        granted,
        now_us,
        tuple(one.state.used for one in seen),
        tuple(one.end_us for one in seen),
        besides,
    )


def _besides(seen: ClaimedLimit, burned: int) -> QuotaDetail:
    limit = seen.ask.claim.limit
    if isinstance(limit, TeamShare):
        return QuotaDetail(_kept(seen), 0, seen.others, 0)
    if isinstance(limit, QuotaLimit):
        return QuotaDetail(seen.told, seen.state.carried, seen.left, burned)
    return QuotaDetail()
