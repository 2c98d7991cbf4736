"""Teams in a replay: what each uses of a quota, and whether a call leaves what is kept for others.

Few accounts have teams, so these are the reference's own values, and not plain integers as in
`backtest_states.py`.
"""

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from sidecar.core.limits import EMPTY, State
from sidecar.core.model import QuotaLimit, TeamShare
from sidecar.core.teams import gone, passed

Teams = defaultdict[str, State]  # by team, of one quota


class ShareRow(NamedTuple):
    """`cost` units of a team's share of the quota that has this place among the call's quotas."""

    teams: Teams
    cost: int
    share: TeamShare
    quota: int


class Period(NamedTuple):
    """The quota's, at an instant in it."""

    start: int
    end: int
    at: int


class Kept(NamedTuple):
    """For the team itself, and for the others."""

    own: int
    others: int


def state_of(row: ShareRow, period: Period) -> State:
    """The team's counter, with what is gone of its guarantee by now."""
    share = row.share
    return _at(row.teams[share.team], share.units, share.lends, period)


def kept(row: ShareRow, period: Period) -> Kept:
    """What is kept of the quota."""
    share = row.share
    others = (
        max(0, one.units - _at(row.teams[one.team], one.units, one.lends, period).told)
        for one in share.others
    )
    return Kept(max(0, share.units - state_of(row, period).told), sum(others))


def fits(row: ShareRow, kept: Kept, room: int) -> bool:
    """Whether the call does; `room` is what the quota has left."""
    return row.cost <= kept.own or row.cost + kept.others <= room


def count(row: ShareRow, period: Period, units: int) -> None:
    """Count units, or below 0 give them back."""
    state = state_of(row, period)
    row.teams[row.share.team] = replace(
        state, used=max(0, state.used + units), told=max(0, state.told + units)
    )


def most(row: ShareRow, quota: QuotaLimit) -> int:
    """The largest call that the team may ever make."""
    return quota.cap - sum(one.units for one in row.share.others)


def _at(state: State, units: int, lends: bool, period: Period) -> State:
    if state.since_us < period.start:
        state = replace(EMPTY, since_us=period.start)
    hundredths = passed(*period)
    return replace(state, told=gone(units, lends=lends, state=state, hundredths=hundredths))
