"""Teams in a replay: their use of a quota, and the guarantees of other teams.

Few accounts have teams, so the counters here are the values of `core/counting/limits.py`, not plain
integers as in `counters.py`.
"""

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from sidecar.core.counting.counters import EMPTY, State
from sidecar.core.counting.teams import elapsed_percent, spent_guarantee
from sidecar.core.kinds import QuotaLimit, TeamShare

Teams = defaultdict[str, State]  # by team, of one quota


class ShareRow(NamedTuple):
    """A claim of `cost` units by a team. `quota`: position among the request's quota claims."""

    teams: Teams
    cost: int
    share: TeamShare
    quota: int


class Period(NamedTuple):
    """The period of a quota from `start` to `end`, and an instant in it (µs)."""

    start: int
    end: int
    at: int


class Guarantees(NamedTuple):
    """Units still guaranteed to the team itself, and to the other teams together."""

    own: int
    others: int


def state_of(row: ShareRow, period: Period) -> State:
    """Return the team's counter at the instant, with the part of its guarantee that is spent."""
    share = row.share
    return _at(row.teams[share.team], share.units, share.lends, period)


def guarantees(row: ShareRow, period: Period) -> Guarantees:
    """Return the units of the quota that are still guaranteed."""
    share = row.share
    others = (
        max(0, one.units - _at(row.teams[one.team], one.units, one.lends, period).notified)
        for one in share.others
    )
    return Guarantees(max(0, share.units - state_of(row, period).notified), sum(others))


def fits(row: ShareRow, guaranteed: Guarantees, remaining: int) -> bool:
    """Whether the request fits. `remaining`: units left in the quota."""
    return row.cost <= guaranteed.own or row.cost + guaranteed.others <= remaining


def count(row: ShareRow, period: Period, units: int) -> None:
    """Charge units to the team; below 0: return them."""
    state = state_of(row, period)
    row.teams[row.share.team] = replace(
        state, used=max(0, state.used + units), notified=max(0, state.notified + units)
    )


def max_cost(row: ShareRow, quota: QuotaLimit) -> int:
    """Return the highest cost of a request that could ever fit the team."""
    return quota.cap - sum(one.units for one in row.share.others)


def _at(state: State, units: int, lends: bool, period: Period) -> State:
    if state.since_us < period.start:
        state = replace(EMPTY, since_us=period.start)
    spent = spent_guarantee(units, lends, state, elapsed_percent(*period))
    return replace(state, notified=spent)
