"""Claims + answer → decision. Pure arithmetic; "no" is a value.

Rates reckon in micro-units: a bucket is full of use at `burst * MICRO` and drains with
`refill[0] / refill[1]` micro-units per microsecond. Quotas reckon in units.
"""

from collections.abc import Iterable
from typing import Final

from sidecar.core.model import (
    MICRO,
    Answer,
    Claim,
    Crossing,
    Decision,
    Entitlement,
    QuotaLimit,
    RateLimit,
    Reason,
    Standing,
)
from sidecar.errors import StoreUnavailable

_FREE: Final = Decision(allowed=True, reason=Reason.OK, now_us=0)
_BLIND: Final = Decision(allowed=True, reason=Reason.STORE_DOWN, now_us=0)


def without_limits(_entitlement: Entitlement) -> Decision:
    """The decision on a call that claims nothing. No store was asked: `now_us` is 0."""
    return _FREE


def without_store(_entitlement: Entitlement) -> Decision:
    """The decision on a call that goes on though Redis cannot tell. `now_us` is 0."""
    return _BLIND


def decide(entitlement: Entitlement, answer: Answer) -> Decision:
    """What happens to a call, from what Redis said of its claims.

    Raises StoreUnavailable when the answer contradicts itself (refused, yet all claims fit, or
    not one number per claim): then Redis cannot be trusted to tell.
    """
    if len(answer.used) != len(entitlement.claims):
        raise StoreUnavailable("Redis answered for another number of claims than were made.")
    return _allowed(entitlement, answer) if answer.granted else _refused(entitlement, answer)


def _allowed(entitlement: Entitlement, answer: Answer) -> Decision:
    # One pass over plain integers; objects are built only for what is shown.
    guard = entitlement.plan.critical_guard
    reason = Reason.OK
    overage: dict[str, int] | None = None
    crossings: list[Crossing] | None = None
    tightest = -1
    tightest_left, tightest_units = 1, 0  # the smallest share left so far, as a fraction
    at = -1
    for claim in entitlement.claims:
        at += 1
        used = answer.used[at]
        limit = claim.limit
        if type(limit) is RateLimit:
            units = limit.burst
            left = (units * MICRO - used) // MICRO
            if left < 0:
                left = 0
                if claim.forced:
                    reason = Reason.CRITICAL
            if limit is guard:
                continue
            tighter = left * tightest_units < tightest_left * units
        else:
            assert isinstance(limit, QuotaLimit)  # noqa: S101 - there are two kinds
            units = limit.units
            left = units - used
            if left < 0:
                left = 0
                if claim.forced and used > limit.cap:
                    reason = Reason.CRITICAL
                elif reason is Reason.OK:
                    reason = Reason.OVERAGE
                overage = _add_overage(overage, claim, used)
            if limit.notices and used * 100 >= units * limit.notices[0]:
                end = answer.ends_us[at]
                crossings = _add_crossings(crossings, limit, claim.cost, used, end)
            # Of equal shares a quota is the one to tell: it recovers later.
            tighter = left * tightest_units <= tightest_left * units
        if tighter:
            tightest, tightest_left, tightest_units = at, left, units
    return Decision(
        True,
        reason,
        answer.now_us,
        _standing(entitlement.claims[tightest], answer, tightest) if tightest >= 0 else None,
        (),
        None,
        tuple(overage.items()) if overage else (),
        tuple(crossings) if crossings else (),
    )


def _standing(claim: Claim, answer: Answer, at: int) -> Standing:
    """How an allowed claim's limit stands; it resets when one more unit is there."""
    limit, used = claim.limit, answer.used[at]
    if isinstance(limit, QuotaLimit):
        left = max(0, limit.units - used)
        return Standing(claim, limit.units, used, left, answer.ends_us[at])
    left = max(0, limit.burst * MICRO - used) // MICRO
    reset = answer.now_us + _rate_wait(limit, used, left + 1) if used > 0 else None
    return Standing(claim, limit.burst, -(-used // MICRO), left, reset)


def _rate_wait(limit: RateLimit, used: int, units: int) -> int:
    """Microseconds until `units` fit into a bucket that now holds `used` micro-units."""
    gain, per = limit.refill
    return -((used + (units - limit.burst) * MICRO) * per // -gain)


def _add_overage(overage: dict[str, int] | None, claim: Claim, used: int) -> dict[str, int] | None:
    limit = claim.limit
    over = used - max(limit.units, used - claim.cost)
    if over > 0:
        overage = overage or {}
        overage[limit.meter] = max(over, overage.get(limit.meter, 0))
    return overage


def _add_crossings(
    crossings: list[Crossing] | None, limit: QuotaLimit, cost: int, used: int, end_us: int
) -> list[Crossing] | None:
    for percent in limit.notices:
        threshold = -(-limit.units * percent // 100)
        if used - cost < threshold <= used:
            crossings = crossings or []
            crossings.append(Crossing(limit, percent, used, end_us))
    return crossings


def _refused(entitlement: Entitlement, answer: Answer) -> Decision:
    now = answer.now_us
    guard = entitlement.plan.critical_guard
    violated = sorted(_violated(entitlement.claims, answer), key=_patience)
    if not violated:
        raise StoreUnavailable("Redis refused claims that all fit by its own numbers.")
    worst = violated[0]
    if any(standing.claim.limit is guard for standing in violated):
        reason = Reason.ABUSE
    else:
        reason = Reason.RATE if isinstance(worst.claim.limit, RateLimit) else Reason.QUOTA
    return Decision(
        allowed=False,
        reason=reason,
        now_us=now,
        tightest=next((one for one in violated if one.claim.limit is not guard), None),
        violated=tuple(violated),
        retry_us=None if worst.reset_us is None else worst.reset_us - now,
    )


def _patience(standing: Standing) -> tuple[bool, int]:
    """Sorts what never recovers first, then what recovers last."""
    return standing.reset_us is not None, -(standing.reset_us or 0)


def _violated(claims: Iterable[Claim], answer: Answer) -> Iterable[Standing]:
    for claim, used, end in zip(claims, answer.used, answer.ends_us, strict=True):
        limit, cost = claim.limit, claim.cost
        if claim.forced:
            continue
        if isinstance(limit, RateLimit):
            if used + cost * MICRO > limit.burst * MICRO:
                wait = None if cost > limit.burst else _rate_wait(limit, used, cost)
                reset = None if wait is None else answer.now_us + wait
                left = max(0, limit.burst * MICRO - used) // MICRO
                yield Standing(claim, limit.burst, -(-used // MICRO), left, reset)
        elif used + cost > limit.cap:
            reset = None if cost > limit.cap else end
            yield Standing(claim, limit.units, used, max(0, limit.units - used), reset)
