"""Teams of an account: what is left of each team's guarantee, and what that leaves to a request.

What is left of a guarantee is its units less what the team has used. If the team lends, it lends
the part that belongs to the elapsed time of the period. Others can use that part, and it does not
come back. So at any moment, a team is sure of its part of the rest of the period. By the period's
end, all unused units are available to all teams. What is left only grows if units are returned or
granted.

The quota must have room for a request. The request must also fit into what is left of its team's
guarantee, or into the room that the other teams' guarantees leave. Packs, carried-over units and
overage are not guaranteed to any team.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.counting.counters import State
from sidecar.core.kinds import Guarantee, QuotaLimit, TeamShare
from sidecar.core.model import Claim, Entitlement, Key, Team
from sidecar.core.reasons import TeamUse

MOST_TEAMS: Final = 32  # of one account: each is read on every request of the others
_TEAM: Final = re.compile(r"([a-z0-9][a-z0-9._-]{0,63})=([1-9][0-9]?|100)%(:keep)?", re.ASCII)
REMEMBERED: Final = 10_000  # entitlements of teams


@lru_cache(maxsize=4096)
def read_teams(text: str) -> tuple[Team, ...]:
    """Parse `search=40%,ads=30%:keep`; a team with `:keep` does not lend.

    The same text returns the same object, so that entitlements stay cached when an account's record
    is read again. Raises ValueError with a remedy.
    """
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
    match = _TEAM.fullmatch(text.strip())
    if match is None:
        raise ValueError("is not a list of teams; write it like search=40%,ads=30%:keep")
    return Team(match[1], int(match[2]), match[3] is None)


def elapsed_percent(start: int, end: int, now_us: int) -> int:
    """Return how much of a period has elapsed, 0 to 99 percent; the period holds `now_us`."""
    return (now_us - start) * 100 // (end - start)


def spent_guarantee(units: int, lends: bool, state: State, elapsed: int) -> int:
    """Return how much of a guarantee is used or lent, after `elapsed` percent of the period."""
    return max(state.notified, state.used, units * elapsed // 100 if lends else 0)


def team_share(quota: QuotaLimit, teams: Iterable[Team], team: str) -> TeamShare:
    """Return a team's share of an account's quota; `team` may be unknown, or ""."""
    guarantees = [Guarantee(one.id, quota.units * one.percent // 100, one.lends) for one in teams]
    own = next((one for one in guarantees if one.team == team), Guarantee(team, 0, False))
    others = tuple(one for one in guarantees if one.team != team)
    return TeamShare(
        quota.id, quota.meter, own.units, quota.period, quota.shadow, team, own.lends, others
    )


def _with_shares(claims: Sequence[Claim], key: Key) -> Iterator[Claim]:
    for claim in claims:
        yield claim
        limit = claim.limit
        if isinstance(limit, QuotaLimit) and limit.per == "account":
            share = team_share(limit, key.account.teams, key.counted_team)
            yield Claim(share, claim.cost, claim.forced)


class TeamEntitlements:
    """Entitlements for keys of accounts with teams.

    They are cached, so that equal requests have the same claims object.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, str], tuple[Entitlement, Key, Entitlement]] = {}

    def of(self, entitlement: Entitlement, key: Key) -> Entitlement:
        """Return the entitlement with a claim on the team's share after each account quota."""
        name = id(entitlement), id(key.account.teams), key.team
        known = self._known.get(name)
        if known is not None and known[0] is entitlement:
            return known[2]
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        with_shares = replace(entitlement, claims=tuple(_with_shares(entitlement.claims, key)))
        # Entitlement and key are stored, so that their ids are not used again.
        self._known[name] = entitlement, key, with_shares
        return with_shares


def team_use(claims: Sequence[Claim], answer: Answer, at: int) -> TeamUse:
    """Return the use of the team's share that is the `at`th claim.

    An answer without details counts no guarantees. Raises TypeError if the claim is not on a share
    that follows its quota.
    """
    quota, share = claims[at - 1].limit, claims[at].limit
    if not isinstance(quota, QuotaLimit) or not isinstance(share, TeamShare):
        raise TypeError("a claim on a team's share follows the claim on its quota")
    details = answer.details or (QuotaDetail(),) * len(claims)
    more, share_left = details[at - 1], details[at]
    room = quota.cap + more.carried + more.left - answer.used[at - 1]
    most = quota.cap - sum(other.units for other in share.others)
    kept, others = share_left.notified, share_left.left
    return TeamUse(share.team, share.units, answer.used[at], kept, others, room, most)
