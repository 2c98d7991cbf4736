"""Bucket and quota arithmetic: the reference that the Lua scripts are tested against.

A bucket keeps what is *used* of it (micro-units) and when that was true; what is used drains at
the limit's rate. Keeping the used part, not what is left, lets a changed burst act at
once without giving or taking usage. Time never runs backwards here: a clock that
stepped back is read as the latest instant already seen, and so grants nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.core.model import MICRO, UNBOUNDED, Answer, Claim, QuotaLimit, RateLimit


@dataclass(frozen=True, slots=True)
class State:
    """One limit's counter. `since_us`: for rates when `used` was true, for quotas the start
    of the period that `used` belongs to."""

    used: int = 0
    since_us: int = 0


EMPTY = State()
Bounds = tuple[int, int, int]


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


def current(state: State, bounds: Bounds, now_us: int) -> tuple[State, int]:
    """The quota's counter in the period that `now_us` falls in, and that period's end."""
    start, end, after = bounds
    if now_us >= end:
        start, end = end, after
    return (State(0, start) if start > state.since_us else state), end


def reserve(
    states: Sequence[State],
    claims: Sequence[Claim],
    bounds: Sequence[Bounds | None],
    now_us: int,
) -> tuple[Answer, list[State]]:
    """Grant all claims or none: the answer, and the states afterwards (unchanged on refusal).

    `bounds` holds a quota's period bounds and None for rates. The caller sees to it that
    `now_us` lies within them.
    """
    seen: list[State] = []
    ends: list[int] = []
    granted = True
    for state, claim, window in zip(states, claims, bounds, strict=True):
        limit = claim.limit
        if isinstance(limit, QuotaLimit):
            assert window is not None  # noqa: S101 - the contract above
            now, end = current(state, window, now_us)
            fits = now.used + claim.cost <= limit.cap
        else:
            now, end = drained(limit, state, now_us), 0
            fits = now.used + claim.cost * MICRO <= limit.burst * MICRO
        granted = granted and (fits or claim.forced)
        seen.append(now)
        ends.append(end)
    if not granted:
        used = tuple(state.used for state in seen)
        return Answer(False, now_us, used, tuple(ends)), list(states)
    after = [
        State(min(state.used + _weight(claim), UNBOUNDED), state.since_us)
        for state, claim in zip(seen, claims, strict=True)
    ]
    return Answer(True, now_us, tuple(state.used for state in after), tuple(ends)), after


def _weight(claim: Claim) -> int:
    return claim.cost if isinstance(claim.limit, QuotaLimit) else claim.cost * MICRO
