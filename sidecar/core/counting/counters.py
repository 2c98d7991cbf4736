"""The counters of one limit: the one in use, and those that count something else. Pure.

A limit's meter or the length of its period may change, and change back: by another plan, or by an
edit of the plan file. So a counter that is not in use is *suspended*, not dropped. It is used again
if the limit counts the same as before, and dropped when its period ends. All counters of one meter
get every charge, so each has what was used since its start.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from sidecar.core.counting.counts import meter_of
from sidecar.core.kinds import UNBOUNDED, Limit, TeamShare
from sidecar.core.periods import Window

MOST_SUSPENDED: Final = 3  # counters of one limit; the one that was used longest ago is dropped
BUCKET_KEPT_US: Final = 86_400_000_000  # a suspended bucket has no period, so it is kept for a day


@dataclass(frozen=True, slots=True)
class State:
    """One limit's counter.

    `since_us`: for rates the instant of `used`, for quotas the start of the period. `notified`: the
    highest percentage that was reported in the period; of a team's share, the units of its
    guarantee that are used or lent for good. `carried`: units left by the period before. `end_us`:
    the end of the quota's period. `counts`: see `counts.py`. Both are 0 if an earlier version of
    the sidecar wrote the state.

    Of a quota's ended requests: `settled` are the units that the allowance covers, less what grants
    pay for open reservations (so it may be below 0), and `over` their units of overage. `due` is
    overage that no event has reported; below 0, events have reported too much, and the next ones
    report less. The period before this one began at `closed_us`, and `closed_room` of its allowance
    is left for requests that began in it and have not ended. `closed_us` is 0 until a request whose
    cost may change was counted, and 1 until the next period: other requests end at once.

    `suspended`: counters of the limit that count something else, because its meter or the length
    of its period has changed. Each is used again if the limit changes back before its period ends.
    Each has all charges on its meter since its start.
    """

    used: int = 0
    since_us: int = 0
    notified: int = 0
    carried: int = 0
    end_us: int = 0
    counts: int = 0
    settled: int = 0
    over: int = 0
    due: int = 0
    closed_us: int = 0
    closed_room: int = 0
    suspended: "tuple[State, ...]" = field(default=(), kw_only=True)


EMPTY = State()


class Change(NamedTuple):
    """A change of a counter. `spent`: of a team's guarantee."""

    used: int
    settled: int
    spent: int = 0


def counters_of(state: State) -> tuple[State, ...]:
    """Return the counter in use and the suspended ones."""
    return replace(state, suspended=()), *state.suspended


def of_one_meter(state: State) -> tuple[State, ...]:
    """Return the counter in use and the suspended ones of its meter: each has every charge."""
    meter = meter_of(state.counts)
    return state, *(one for one in state.suspended if meter_of(one.counts) == meter)


def in_use(state: State, counts: int, window: Window, now_us: int) -> State:
    """Return the counter that counts `counts`; the others are suspended.

    A new one starts at 0 and now, or with what a counter of the same meter has counted, if all of
    that was in this `window`. It reports the overage that is due of its meter.
    """
    if state.counts in (0, counts) and not state.suspended:
        return state
    found, others = None, []
    for one in counters_of(state):
        if found is None and one.counts in (0, counts):
            found = one
        else:
            others.append(one)
    if found is None:
        found = _new(others, counts, window, now_us)
    due = found.due
    kept: list[State] = []
    for one in others:
        same = meter_of(one.counts) == meter_of(counts)
        due = min(due + one.due, UNBOUNDED) if same else due
        end = one.end_us or now_us + BUCKET_KEPT_US
        if end > now_us and len(kept) < MOST_SUSPENDED:
            kept.append(replace(one, end_us=end, due=0 if same else one.due))
    return replace(found, due=due, suspended=tuple(kept))


def _new(others: Sequence[State], counts: int, window: Window, now_us: int) -> State:
    first = State(0, now_us, end_us=window.end, counts=counts)
    for one in others:
        inside = window.start <= one.since_us <= first.since_us
        if inside and meter_of(one.counts) == meter_of(counts):
            settled = one.settled + one.over
            first = replace(first, used=one.used, since_us=one.since_us, settled=settled)
    return first


def with_change(
    limit: Limit, before: State, after: State, starts: Collection[int] | None = None
) -> State:
    """Return the counter with a change from `before`, also in the suspended ones of its meter.

    `starts`: only in counters of periods that started then, because the others do not have the
    charge; None: in all. Units that the counter in use counts as overage are settled in the others,
    which have another allowance.
    """
    if not before.suspended:
        return after
    change = change_of(before, after, spends=isinstance(limit, TeamShare))
    return replace(after, suspended=changed_suspended(before, change, starts))


def change_of(before: State, after: State, *, spends: bool = False) -> Change:
    """Return the change of a counter. `spends`: of a team's share, whose guarantee is spent."""
    settled = after.settled + after.over - before.settled - before.over
    spent = after.notified - before.notified if spends else 0
    return Change(after.used - before.used, settled, spent)


def changed_suspended(
    state: State, change: Change, starts: Collection[int] | None
) -> tuple[State, ...]:
    """Return the suspended counters after a change; `starts` as for `with_change`."""
    meter = meter_of(state.counts)
    return tuple(
        changed(one, change)
        if meter_of(one.counts) == meter and (starts is None or one.since_us in starts)
        else one
        for one in state.suspended
    )


def changed(state: State, change: Change) -> State:
    """Return a counter after a change."""
    return replace(
        state,
        used=bounded(state.used + change.used),
        settled=state.settled + change.settled,
        notified=bounded(state.notified + change.spent),
    )


def bounded(units: int) -> int:
    """Return units as a counter can hold them."""
    return min(max(0, units), UNBOUNDED)
