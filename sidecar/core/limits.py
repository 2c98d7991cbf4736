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

from sidecar.core.counts import counts_of
from sidecar.core.model import UNBOUNDED, Limit, PeriodLimit, QuotaLimit, RateLimit, TeamShare
from sidecar.core.periods import Window


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


EMPTY = State()


@dataclass(frozen=True, slots=True)
class Grant:
    """Extra units until `expires_us` for the quota that has this `field`."""

    id: str
    field: str
    units: int
    expires_us: int
    priority: int = 0
    used: int = 0

    @property
    def order(self) -> tuple[int, int, str]:
        """A sort key: grants are used in this order."""
        return self.priority, self.expires_us, self.id

    @property
    def left(self) -> int:
        """Units that can still be used."""
        return self.units - self.used


def drained(limit: RateLimit, state: State, now_us: int) -> State:
    """Return the bucket at `now_us`, without what flowed back since `state`.

    A bucket of another meter is not this one, which is empty then.
    """
    counts, per, span = counts_of(limit), *limit.refill
    if state.counts not in (0, counts):
        return State(0, now_us, counts=counts)
    now_us = max(now_us, state.since_us)
    if state.used <= 0:
        return State(0, now_us, counts=counts)
    elapsed = now_us - state.since_us
    if elapsed >= -(-state.used * span // per):
        return State(0, now_us, counts=counts)
    gained = elapsed * per // span
    since = state.since_us + -(-gained * span // per)
    return State(state.used - gained, since, counts=counts)


def current(limit: PeriodLimit, state: State, window: Window, now_us: int) -> tuple[State, int]:
    """Return the counter in the period that holds `now_us`, and the period's end.

    If the bounds of periods have moved, a running period ends at the first new bound at which it
    has run for half a period. If that bound has passed, it ends when it would have ended without
    the move. So usage stays, and moves make a period at most half a period longer or shorter.
    """
    counts = counts_of(limit)
    if now_us >= window.end:
        window = Window(window.end, window.after, 0, window.start)
    if state.counts not in (0, counts):
        return State(0, now_us, 0, 0, window.end, counts), window.end
    rollover = limit.rollover if isinstance(limit, QuotaLimit) else 0
    until = _until(state, window)
    if until > now_us:
        carried = state.carried if rollover else 0
        return replace(state, carried=carried, end_us=until, counts=counts), until
    carried = 0
    # An account without a state has left nothing in the period before.
    if rollover and state.since_us:
        unused = limit.units + state.carried - state.used if _is_last(state, window) else rollover
        carried = max(0, min(rollover, unused))
    start = max(window.start, until)
    until = _bound_for(start, window)
    new = State(0, start, 0, carried, until, counts)
    if not isinstance(limit, QuotaLimit):
        return new, until
    new = replace(new, due=state.due)
    if state.closed_us:
        new = replace(new, closed_us=state.since_us, closed_room=room_of(limit, state))
    return new, until


def _until(state: State, window: Window) -> int:
    """Return the end of the state's period. The window holds the present instant."""
    end = state.end_us
    if not end:  # an earlier version of the sidecar wrote it
        return window.end if window.start <= state.since_us else window.start
    if end <= window.start or end in (window.end, window.after):
        return end
    half = (window.end - window.start) // 2
    return _bound_for(state.since_us, window) if state.since_us + half > window.start else end


def _bound_for(since_us: int, window: Window) -> int:
    """Return the bound at which a period ends that has started at `since_us`."""
    half = (window.end - window.start) // 2
    return window.end if since_us + half <= window.end or not window.after else window.after


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
    used = _bounded(state.used + weight)
    notified = _bounded(state.notified + weight) if isinstance(limit, TeamShare) else 0
    return replace(state, used=used, notified=notified), list(grants), 0


def _bounded(units: int) -> int:
    return min(max(0, units), UNBOUNDED)


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
