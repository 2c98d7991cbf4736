"""The arithmetic of one limit: the reference that the Lua scripts are tested against.

A bucket keeps what is *used* of it (micro-units) and when that was true; what is used drains at
the limit's rate. Keeping the used part, not what is left, lets a changed burst act at
once without giving or taking usage. Time never runs backwards here: a clock that
stepped back is read as the latest instant already seen, and so grants nothing.

A quota's units are used in this order: the plan's own with what was carried over, then grants
(by priority, earliest end, id), then overage. What is given back comes back the other way
round. So the own units are full before the first grant is touched, whatever the order of events.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sidecar.core.model import UNBOUNDED, QuotaLimit, RateLimit, TeamShare
from sidecar.core.periods import Window


@dataclass(frozen=True, slots=True)
class State:
    """One limit's counter. `since_us`: for rates when `used` was true, for quotas the start of
    the period that all of this belongs to. `told`: the highest percentage in it that has been
    told; `carried`: units that the period before left. Of a team's share, `told` is how much of
    the guarantee is gone: used, or lent for good."""

    used: int = 0
    since_us: int = 0
    told: int = 0
    carried: int = 0


EMPTY = State()


@dataclass(frozen=True, slots=True)
class Grant:
    """Extra units for the quota that `field` names, until `expires_us`."""

    id: str
    field: str
    units: int
    expires_us: int
    priority: int = 0
    used: int = 0

    @property
    def order(self) -> tuple[int, int, str]:
        """Smaller ones are used first."""
        return self.priority, self.expires_us, self.id

    @property
    def left(self) -> int:
        """Units that can still be used."""
        return self.units - self.used


def drained(limit: RateLimit, state: State, now_us: int) -> State:
    """The bucket at `now_us`: what flowed back since `state` is no longer used."""
    now_us = max(now_us, state.since_us)
    per, span = limit.refill
    if state.used <= 0:
        return State(0, now_us)
    elapsed = now_us - state.since_us
    if elapsed >= -(-state.used * span // per):
        return State(0, now_us)
    gained = elapsed * per // span
    return State(state.used - gained, state.since_us + -(-gained * span // per))


def current(limit: QuotaLimit, state: State, window: Window, now_us: int) -> tuple[State, int]:
    """The quota's counter in the period that `now_us` falls in, and that period's end."""
    start, end, before = window.start, window.end, window.before
    if now_us >= window.end:
        start, end, before = window.end, window.after, window.start
    if start <= state.since_us:
        return (state if limit.rollover else replace(state, carried=0)), end
    return State(0, start, 0, _carried(limit, state, before)), end


def _carried(limit: QuotaLimit, state: State, before: int) -> int:
    """What the period that began at `before` left. An account never seen has had none."""
    if not limit.rollover or not state.since_us:
        return 0
    if state.since_us < before:
        return limit.rollover  # nothing was used then
    return max(0, min(limit.rollover, limit.units + state.carried - state.used))


def burn(
    limit: QuotaLimit, state: State, grants: Sequence[Grant], cost: int
) -> tuple[State, list[Grant], int]:
    """Use `cost` units: the counter and the quota's live grants (in their order) afterwards,
    and how much of it the grants paid. What nobody pays is the counter's: overage, or debt."""
    if isinstance(limit, TeamShare):
        return _spent(state, cost), list(grants), 0
    own = max(0, limit.units + state.carried - state.used)
    wanted, after = max(0, cost - own), []
    for grant in grants:
        taken = min(wanted, grant.left)
        wanted -= taken
        after.append(replace(grant, used=grant.used + taken))
    burned = max(0, cost - own) - wanted
    used = min(state.used + cost - burned, UNBOUNDED)
    return replace(state, used=used), after, burned


def give_back(
    limit: QuotaLimit, state: State, grants: Sequence[Grant], units: int
) -> tuple[State, list[Grant], int]:
    """The way back of `burn`: from overage, then to grants, last used first, then to the plan's
    own units. The last value is how much the grants got."""
    if isinstance(limit, TeamShare):
        return _spent(state, -units), list(grants), 0
    over = min(units, max(0, state.used - limit.units - state.carried))
    wanted, after = units - over, []
    for grant in reversed(grants):
        given = min(wanted, grant.used)
        wanted -= given
        after.append(replace(grant, used=grant.used - given))
    returned = units - over - wanted
    used = max(0, state.used - (units - returned))
    return replace(state, used=used), after[::-1], returned


def _spent(state: State, units: int) -> State:
    """A team's counter with that much more, or less: also of what is gone of its guarantee."""
    used, gone = (min(max(0, now + units), UNBOUNDED) for now in (state.used, state.told))
    return replace(state, used=used, told=gone)


def tell(limit: QuotaLimit, state: State) -> State:
    """What has been reached is told. It stays told when units are given back."""
    reached = [p for p in limit.notices if state.used * 100 >= limit.units * p]
    return replace(state, told=max(state.told, *reached)) if reached else state
