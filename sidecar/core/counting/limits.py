"""The arithmetic of one limit: the reference for the Lua scripts.

A bucket stores how much of it is *used* (micro-units) and the instant of that. What is used drains
at the limit's rate. Because the used part is stored, and not the rest, a changed burst acts at once
and neither gives nor takes usage. Time never runs backwards here: a clock that stepped back is read
as the latest known instant, and so grants nothing.

A quota's counter has the start and the end of its period. If the bounds of periods move (another
zone, another billing anchor), the period goes on: `current` says until when.

A quota's units are used in this order: the plan's own with carried-over units, then grants (by
priority, earliest end, id), then overage. Returned units go the other way. So the own units are
full before the first grant is used, in any order of events.

Overage is reckoned from ended requests alone, as the cost of an open reservation may still change.
Of an ended request's units, grants pay a part, the allowance (own and carried-over units) covers a
part, and the rest is *due* as overage, until an event reports it. `State.settled` is what the
allowance covers: it grows up to the allowance, never beyond it. So the sum of what is due and
reported is what all ended requests used beyond plan and grants, in any order of settlements.
Overage of ended requests stays overage: no later request gets those units back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sidecar.core.counting.counters import State, bounded, in_use
from sidecar.core.counting.counts import counts_of, meter_of
from sidecar.core.kinds import UNBOUNDED, Limit, PeriodLimit, QuotaLimit, RateLimit, TeamShare
from sidecar.core.periods import (
    NO_PERIOD,
    Window,
    at_instant,
    end_of_new,
    end_of_running,
)


@dataclass(frozen=True, slots=True)
class Grant:
    """Extra units until `expires_us` for the quota that has this `field`.

    `meter`: see `counts.meter_number`; 0: any.
    """

    id: str
    field: str
    units: int
    expires_us: int
    priority: int = 0
    used: int = 0
    meter: int = 0

    @property
    def order(self) -> tuple[int, int, str]:
        """A sort key: grants are used in this order."""
        return self.priority, self.expires_us, self.id

    @property
    def left(self) -> int:
        """Units that can still be used."""
        return self.units - self.used


def live_grants(grants: Sequence[Grant], field: str, counts: int, now_us: int) -> list[Grant]:
    """Return the live grants for the quota of a field that counts `counts`, in their order."""
    meters = 0, meter_of(counts)
    return [
        one
        for one in grants
        if one.field == field and one.expires_us > now_us and one.meter in meters
    ]


def drained(limit: RateLimit, state: State, now_us: int) -> State:
    """Return the bucket at `now_us`, without what flowed back since `state`."""
    counts, per, span = counts_of(limit), *limit.refill
    state = in_use(state, counts, NO_PERIOD, now_us)
    now_us = max(now_us, state.since_us)
    elapsed = now_us - state.since_us
    if state.used <= 0 or elapsed >= -(-state.used * span // per):
        return replace(state, used=0, since_us=now_us, end_us=0, counts=counts)
    gained = elapsed * per // span
    since = state.since_us + -(-gained * span // per)
    return replace(state, used=state.used - gained, since_us=since, end_us=0, counts=counts)


def current(limit: PeriodLimit, state: State, window: Window, now_us: int) -> tuple[State, int]:
    """Return the counter in the period that holds `now_us`, and the period's end.

    Usage stays if the bounds of periods have moved: see `periods.end_of_running`.
    """
    counts, window = counts_of(limit), at_instant(window, now_us)
    state = in_use(state, counts, window, now_us)
    rollover = limit.rollover if isinstance(limit, QuotaLimit) else 0
    end = end_of_running(state.since_us, state.end_us, window)
    if end > now_us:
        carried = state.carried if rollover else 0
        return replace(state, carried=carried, end_us=end, counts=counts), end
    carried = 0
    # An account without a state has left nothing in the period before.
    if rollover and state.since_us:
        unused = limit.units + state.carried - state.used if _is_last(state, window) else rollover
        carried = max(0, min(rollover, unused))
    start = max(window.start, end)
    end = end_of_new(start, window)
    new = State(0, start, 0, carried, end, counts, suspended=state.suspended)
    if not isinstance(limit, QuotaLimit):
        return new, end
    new = replace(new, due=state.due)
    if state.closed_us or state.settled + state.over != state.used:  # some may end later
        new = replace(new, closed_us=state.since_us, closed_room=room_of(limit, state))
    return new, end


def _is_last(state: State, window: Window) -> bool:
    """Whether the state is that of the period just before the window."""
    return state.end_us > window.before if state.end_us else state.since_us >= window.before


def allowance(limit: QuotaLimit, state: State) -> int:
    """Return the units of the period that neither grants nor overage pay."""
    return limit.units + state.carried


def room_of(limit: QuotaLimit, state: State) -> int:
    """Return what is left of the allowance, if only ended requests count."""
    return max(0, allowance(limit, state) - state.settled)


def count(limit: QuotaLimit, state: State, units: int, burned: int) -> State:
    """Count an ended request: units beyond the allowance are due as overage.

    Grants paid `burned` of them (negative: got units back) when the request ended.
    """
    more = max(0, units - burned - room_of(limit, state))
    return replace(
        state,
        settled=state.settled + units - burned - more,
        over=_at_most(state.over + more),
        due=_at_most(state.due + more),
    )


def count_closed(state: State, units: int) -> State:
    """Count a request of the period before this one, which grants do not pay any more."""
    over = max(0, units - state.closed_room)
    return replace(
        state, due=_at_most(state.due + over), closed_room=state.closed_room - (units - over)
    )


def uncount(state: State, units: int, reported: int) -> State:
    """Undo `count` for a request without an event. `reported`: what the store's answer reported."""
    less = min(reported, units)
    return replace(
        state,
        settled=state.settled - (units - less),
        over=max(0, state.over - less),
        due=_at_most(state.due + reported - less),
    )


def add_reported(state: State, units: int, reported: int) -> State:
    """Return the state with units that an event has reported as overage.

    What was `reported` beyond these units was due of others.
    """
    return replace(
        state,
        used=_at_most(state.used + units),
        over=_at_most(state.over + units),
        due=state.due - (reported - units),
    )


def report(state: State) -> tuple[State, int]:
    """Return the state after an event reports the overage that is due, and those units."""
    reported = max(0, state.due)
    return (replace(state, due=state.due - reported) if reported else state), reported


def _at_most(units: int) -> int:
    return min(units, UNBOUNDED)


def add(
    limit: Limit, state: State, grants: Sequence[Grant], weight: int
) -> tuple[State, list[Grant], int]:
    """Add `weight` to a counter, or take it back below 0, in the counter's own unit.

    Returns the counter, the quota's live grants (in their order), and the units that grants paid
    (negative: got back).
    """
    if isinstance(limit, QuotaLimit):
        if weight >= 0:
            return burn(limit, state, grants, weight)
        state, live, returned = give_back(allowance(limit, state), state, grants, -weight)
        return state, live, -returned
    used = bounded(state.used + weight)
    notified = bounded(state.notified + weight) if isinstance(limit, TeamShare) else 0
    return replace(state, used=used, notified=notified), list(grants), 0


def burn(
    limit: QuotaLimit, state: State, grants: Sequence[Grant], cost: int
) -> tuple[State, list[Grant], int]:
    """Use `cost` units: the counter, the quota's live grants, and the units that grants paid.

    Units beyond own units and grants stay in the counter: overage, or debt.
    """
    own = max(0, allowance(limit, state) - (state.used - state.over))
    wanted, after = max(0, cost - own), []
    for grant in grants:
        taken = min(wanted, grant.left)
        wanted -= taken
        after.append(replace(grant, used=grant.used + taken))
    burned = max(0, cost - own) - wanted
    used = min(state.used + cost - burned, UNBOUNDED)
    return replace(state, used=used), after, burned


def give_back(
    allowed: int, state: State, grants: Sequence[Grant], units: int
) -> tuple[State, list[Grant], int]:
    """Return units of an open reservation: the opposite of `burn`. `allowed`: the allowance.

    First overage of open reservations shrinks, then grants get units back, last used first, then
    the plan's own units. The last value is what the grants got. Grants that have expired get
    nothing back, so that the counter may fall by less than `units`.
    """
    over = min(units, max(0, state.used - state.over - allowed))
    wanted, after = units - over, []
    for grant in reversed(grants):
        given = min(wanted, grant.used)
        wanted -= given
        after.append(replace(grant, used=grant.used - given))
    own = min(wanted, max(0, state.used - state.over - over))
    return replace(state, used=state.used - over - own), after[::-1], units - over - wanted


def notify(limit: Limit, state: State) -> State:
    """Mark the notice thresholds that are reached; returned units do not unmark them."""
    if not isinstance(limit, QuotaLimit):
        return state
    reached = [p for p in limit.notices if state.used * 100 >= limit.units * p]
    return replace(state, notified=max(state.notified, *reached)) if reached else state
