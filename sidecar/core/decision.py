"""Claims + answer → decision. Pure arithmetic; "no" is a value.

Rates reckon in micro-units: a bucket is full of use at `burst * MICRO` and drains with
`refill[0] / refill[1]` micro-units per microsecond. Quotas reckon in units.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.model import (
    MICRO,
    Claim,
    ConcurrencyLimit,
    Entitlement,
    QuotaLimit,
    RateLimit,
    TeamShare,
)
from sidecar.core.reasons import Decision, LimitStatus, Reason, ThresholdCrossing
from sidecar.core.teams import use_of
from sidecar.core.waits import fits_in_us, wait_of
from sidecar.errors import StoreUnavailable

SLOT_RETRY_US: Final = MICRO
_REASONS: Final = {
    RateLimit: Reason.RATE,
    QuotaLimit: Reason.QUOTA,
    ConcurrencyLimit: Reason.CONCURRENCY,
}
NO_DECISION: Final = Decision(allowed=False, reason=Reason.OK, now_us=0)  # nobody was asked
_FREE: Final = Decision(allowed=True, reason=Reason.OK, now_us=0)
SHED: Final = Decision(allowed=False, reason=Reason.SHED, now_us=0)  # nobody was asked
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
    not one number per claim): then Redis cannot be trusted to tell. Of an answer that was given
    without Redis, that is a call that only this sidecar's share is too small for.
    """
    if len(answer.used) != len(entitlement.claims):
        raise StoreUnavailable("Redis answered for another number of claims than were made.")
    if not answer.granted:
        return _refused(entitlement, answer)
    decision = _allowed(entitlement, answer)
    if answer.alone:  # what is left nobody knows; thresholds are told by who does
        return decision._replace(reason=Reason.STORE_DOWN, tightest=None, crossings=())
    return decision


def _allowed(entitlement: Entitlement, answer: Answer) -> Decision:
    # One pass over plain integers; objects are built only for what is shown.
    guard = entitlement.plan.critical_guard
    besides = answer.besides
    reason = Reason.OK
    overage: dict[str, int] | None = None
    crossings: list[ThresholdCrossing] | None = None
    shadowed: tuple[str, ...] = ()
    tightest = -1
    tightest_left, tightest_units = 1, 0  # the smallest share left so far, as a fraction
    at = -1
    for claim in entitlement.claims:
        at += 1
        used = answer.used[at]
        limit = claim.limit
        if besides and isinstance(limit, TeamShare):
            now = standing(entitlement.claims, answer, at)
            left, units = now.remaining, now.limit_units
            short = now.team is not None and now.team.short
            if short and claim.forced:
                reason = Reason.CRITICAL
            over = short and limit.shadow and limit.id not in shadowed
            tighter = left * tightest_units <= tightest_left * units
        elif isinstance(limit, QuotaLimit):
            own = limit.units
            burned = 0
            units = own
            if besides:
                told, carried, granted, burned = besides[at]
                own += carried
                units = own + granted
                if limit.notices:
                    crossings = _add_crossings(crossings, limit, told, used, answer.ends_us[at])
            left = units - used
            if used > own:
                if claim.forced and used > limit.cap + units - limit.units:
                    reason = Reason.CRITICAL
                elif reason is Reason.OK:
                    reason = Reason.OVERAGE
                overage = _add_overage(overage, claim, used, own, claim.cost - burned)
            if left < 0:
                left = 0
            over = limit.shadow and used > limit.cap + units - limit.units
            # Of equal shares a quota is the one to tell: it recovers later.
            tighter = left * tightest_units <= tightest_left * units
        else:
            if isinstance(limit, RateLimit):
                units = limit.burst
                left = (units * MICRO - used) // MICRO
                over = answer.ends_us[at] < 0  # in shadow, what does not fit is not counted
            else:
                units = limit.slots
                left = units - used
                over = limit.shadow and left < 0
            if left < 0:
                left = 0
                if claim.forced:
                    reason = Reason.CRITICAL
            if limit is guard:
                continue
            tighter = left * tightest_units < tightest_left * units
        if over and not claim.forced:
            shadowed += (limit.id,)
        if tighter and not limit.shadow:
            tightest, tightest_left, tightest_units = at, left, units
    return Decision(
        True,
        reason,
        answer.now_us,
        standing(entitlement.claims, answer, tightest) if tightest >= 0 else None,
        (),
        None,
        tuple(overage.items()) if overage else (),
        tuple(crossings) if crossings else (),
        shadowed,
    )


def standing(claims: Sequence[Claim], answer: Answer, at: int) -> LimitStatus:
    """How the limit of the `at`th claim stands; it resets when more is there."""
    claim, used = claims[at], answer.used[at]
    limit = claim.limit
    if isinstance(limit, TeamShare):
        quota, use = standing(claims, answer, at - 1), use_of(claims, answer, at)
        left = min(quota.remaining, use.left)
        return quota._replace(remaining=left, team=use)
    if isinstance(limit, QuotaLimit):
        units = limit.units
        if answer.besides:
            units += answer.besides[at].carried + answer.besides[at].left
        return LimitStatus(claim, units, used, max(0, units - used), answer.ends_us[at])
    if isinstance(limit, ConcurrencyLimit):
        return LimitStatus(claim, limit.slots, used, max(0, limit.slots - used), None)
    left = max(0, limit.burst * MICRO - used) // MICRO
    reset = answer.now_us + fits_in_us(limit, used, left + 1) if used > 0 else None
    return LimitStatus(claim, limit.burst, -(-used // MICRO), left, reset)


def _add_overage(
    overage: dict[str, int] | None, claim: Claim, used: int, own: int, cost: int
) -> dict[str, int] | None:
    limit = claim.limit
    over = used - max(own, used - cost)
    if over > 0:
        overage = overage or {}
        overage[limit.meter] = max(over, overage.get(limit.meter, 0))
    return overage


def _add_crossings(
    crossings: list[ThresholdCrossing] | None, limit: QuotaLimit, told: int, used: int, end_us: int
) -> list[ThresholdCrossing] | None:
    for percent in limit.notices:
        if told < percent and used * 100 >= limit.units * percent:
            crossings = crossings or []
            crossings.append(ThresholdCrossing(limit, percent, used, end_us))
    return crossings


def crossings_of(claims: Sequence[Claim], answer: Answer) -> tuple[ThresholdCrossing, ...]:
    """The thresholds that a settlement reached, from what Redis said of it."""
    found: list[ThresholdCrossing] | None = None
    for at, claim in enumerate(claims):
        limit = claim.limit
        if isinstance(limit, QuotaLimit) and limit.notices and answer.besides:
            told = answer.besides[at].told
            found = _add_crossings(found, limit, told, answer.used[at], answer.ends_us[at])
    return tuple(found or ())


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
        reason = _REASONS[type(worst.claim.limit)]
    return Decision(
        allowed=False,
        reason=reason,
        now_us=now,
        tightest=next((one for one in violated if one.claim.limit is not guard), None),
        violated=tuple(violated),
        retry_us=_retry_us(worst, now),
        wait=wait_of(violated, now),
    )


def _retry_us(worst: LimitStatus, now_us: int) -> int | None:
    """When a slot becomes free nobody can tell: soon, as calls go."""
    if isinstance(worst.claim.limit, ConcurrencyLimit):
        return SLOT_RETRY_US
    return None if worst.reset_us is None else worst.reset_us - now_us


def _patience(standing: LimitStatus) -> tuple[int, int]:
    """Sorts what never recovers first, then what recovers last, then what nobody can tell."""
    if standing.reset_us is None:
        return (2, 0) if isinstance(standing.claim.limit, ConcurrencyLimit) else (0, 0)
    return 1, -standing.reset_us


def _violated(claims: Sequence[Claim], answer: Answer) -> Iterable[LimitStatus]:
    for at, claim in enumerate(claims):
        limit, cost, used = claim.limit, claim.cost, answer.used[at]
        if claim.forced or limit.shadow:
            continue
        now = standing(claims, answer, at)
        if isinstance(limit, RateLimit):
            if used + cost * MICRO > limit.burst * MICRO:
                wait = None if cost > limit.burst else fits_in_us(limit, used, cost)
                yield now._replace(reset_us=None if wait is None else answer.now_us + wait)
        elif now.team is not None:
            # Where the quota itself refuses, that is told.
            if now.team.left < cost <= now.team.room:
                yield now._replace(reset_us=None if cost > now.team.most else now.reset_us)
        elif isinstance(limit, QuotaLimit):
            cap = limit.cap + now.limit_units - limit.units
            if used + cost > cap:
                yield now._replace(reset_us=None if cost > limit.cap else now.reset_us)
        elif used + 1 > limit.slots:
            yield now
