"""Teams of an account: what is kept of a quota for each of them, and what that leaves to a call.

Kept for a team is what is guaranteed to it, less what it has used. Of a team that lends, what falls
to the part of the period that has passed is not kept either: others may use it, and for good. So
from any moment on a team is sure of its share of the rest of the period, and what nobody uses is
there for all by the end. What is kept never grows but by what is given back or granted anew.

A call is admitted if the quota has room for it, and it is within what is kept for its own team, or
there is room beside what is kept for the others. Packs, carried-over units and overage are room
like any other: nothing of them is guaranteed.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.limits import State
from sidecar.core.model import (
    UNBOUNDED,
    Claim,
    Entitlement,
    Guarantee,
    Key,
    QuotaLimit,
    Team,
    TeamShare,
)
from sidecar.core.reasons import TeamUse

MOST_TEAMS: Final = 32  # of one account: each is read on every call of the others
_TEAM: Final = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})=([1-9][0-9]?|100)%(:keep)?", re.ASCII)
REMEMBERED: Final = 10_000  # entitlements of teams


@lru_cache(maxsize=4096)
def read_teams(text: str) -> tuple[Team, ...]:
    """`search=40%,ads=30%:keep` as teams; one that keeps its share does not lend. Raises ValueError
    with a remedy. The same text is the same teams, so that nothing is worked out anew when a
    record is read again."""
    teams = tuple(_read_team(part) for part in text.split(",")) if text else ()
    together = sum(team.percent for team in teams)
    if len({team.id for team in teams}) != len(teams):
        raise ValueError("names a team twice; remove one")
    if len(teams) > MOST_TEAMS:
        raise ValueError(f"has {len(teams)} teams; write at most {MOST_TEAMS}")
    if together > 100:
        raise ValueError(f"guarantees {together}% together; lower the shares to 100% or less")
    return teams


def _read_team(text: str) -> Team:
    found = _TEAM.fullmatch(text.strip())
    if found is None:
        raise ValueError("is not a list of teams; write it like search=40%,ads=30%:keep")
    return Team(found[1], int(found[2]), found[3] is None)


def passed(start: int, end: int, now_us: int) -> int:
    """How many hundredths of a period are over, 0 to 99; the period holds `now_us`."""
    return (now_us - start) * 100 // (end - start)


def gone(units: int, *, lends: bool, state: State, hundredths: int) -> int:
    """How much of a guarantee is not kept any more, in the period that `state` is of."""
    return max(state.told, state.used, units * hundredths // 100 if lends else 0)


def shares_of(quota: QuotaLimit, teams: Iterable[Team], team: str) -> TeamShare:
    """A team's share of an account's quota; `team` may be none of its teams, or ""."""
    guarantees = [Guarantee(one.id, quota.units * one.percent // 100, one.lends) for one in teams]
    own = next((one for one in guarantees if one.team == team), Guarantee(team, 0, False))
    return TeamShare(
        quota.id, quota.meter, own.units, quota.period, UNBOUNDED,
        shadow=quota.shadow, team=team, lends=own.lends,
        others=tuple(one for one in guarantees if one.team != team),
    )  # fmt: skip


def _with_shares(claims: Sequence[Claim], key: Key) -> Iterator[Claim]:
    for claim in claims:
        yield claim
        limit = claim.limit
        if isinstance(limit, QuotaLimit) and limit.per == "account":
            share = shares_of(limit, key.account.teams, key.counted_team)
            yield Claim(share, claim.cost, claim.forced)


class TeamEntitlements:
    """What plans say of routes, for keys of accounts with teams. Remembers what it has worked out,
    so that calls that are alike get the very same claims."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, str], tuple[Entitlement, Key, Entitlement]] = {}

    def of(self, entitlement: Entitlement, key: Key) -> Entitlement:
        """The entitlement with a claim on the team's share after each of the account's quotas."""
        name = id(entitlement), id(key.account.teams), key.team
        known = self._known.get(name)
        if known is not None and known[0] is entitlement:
            return known[2]
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        found = replace(entitlement, claims=tuple(_with_shares(entitlement.claims, key)))
        self._known[name] = entitlement, key, found  # kept, so that their ids stay theirs
        return found


def use_of(claims: Sequence[Claim], answer: Answer, at: int) -> TeamUse:
    """How the share that is the `at`th claim stands. An answer that does not tell of teams knows of
    nothing that is kept."""
    quota, share = claims[at - 1].limit, claims[at].limit
    assert isinstance(quota, QuotaLimit)  # noqa: S101 - a share follows its quota
    assert isinstance(share, TeamShare)  # noqa: S101 - the callers looked
    besides = answer.besides or (QuotaDetail(),) * len(claims)
    more, (kept, _, others, _) = besides[at - 1], besides[at]
    room = quota.cap + more.carried + more.left - answer.used[at - 1]
    most = quota.cap - sum(other.units for other in share.others)
    return TeamUse(share.team, share.units, answer.used[at], kept, others, room, most)
