"""Claims + answer → decision. Pure arithmetic; a refusal is a value, not an exception.

Rates count in micro-units: a bucket is full of use at `burst * MICRO`, and drains with
`refill[0] / refill[1]` micro-units per microsecond. Quotas count in units.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.counting.teams import team_use
from sidecar.core.kinds import MICRO, SLOTS, ConcurrencyLimit, QuotaLimit, RateLimit, TeamShare
from sidecar.core.model import Claim, Entitlement
from sidecar.core.reasons import (
    NO_OVERAGE,
    Decision,
    LimitStatus,
    Overage,
    Reason,
    ThresholdCrossing,
)
from sidecar.core.waits import fits_in_us, wait_of
from sidecar.errors import StoreUnavailable

SLOT_RETRY_US: Final = MICRO
_OK: Final = Reason.OK
# Decisions without the store: `now_us` is 0.
NO_DECISION: Final = Decision(allowed=False, reason=Reason.OK, now_us=0)
SHED: Final = Decision(allowed=False, reason=Reason.SHED, now_us=0)
_NO_LIMITS: Final = Decision(allowed=True, reason=Reason.OK, now_us=0)
_NO_STORE: Final = Decision(allowed=True, reason=Reason.STORE_DOWN, now_us=0)


def without_limits(_entitlement: Entitlement) -> Decision:
    """Allow a request that claims nothing. The store was not asked: `now_us` is 0."""
    return _NO_LIMITS


def without_store(_entitlement: Entitlement) -> Decision:
    """Allow a request although Redis is unavailable. `now_us` is 0."""
    return _NO_STORE


def decide(entitlement: Entitlement, answer: Answer) -> Decision:
    """Return what happens to a request, from the store's answer to its claims.

    Raises StoreUnavailable if the answer contradicts itself (refused although all claims fit, or
    not one number per claim): such an answer cannot be trusted. A local answer refuses in this way
    if the request fits the limit, but not this sidecar's share of it.
    """
    if len(answer.used) != len(entitlement.claims):
        raise StoreUnavailable("Redis answered for another number of claims than were made.")
    if not answer.granted:
        return _refused(entitlement, answer)
    decision = _allowed(entitlement, answer)
    if answer.local:  # one sidecar does not know what is left, and must not report thresholds
        return decision._replace(reason=Reason.STORE_DOWN, tightest=None, crossings=())
    return decision


def _allowed(entitlement: Entitlement, answer: Answer) -> Decision:
    # One pass over plain integers; objects are built only for what is shown.
    guard = entitlement.plan.critical_guard
    _, now_us, all_used, ends_us, details, _ = answer
    reason = _OK
    overage = NO_OVERAGE
    crossings: list[ThresholdCrossing] | None = None
    shadowed: tuple[str, ...] = ()
    tightest = -1
    tightest_left, tightest_units = 1, 0  # the smallest part left so far, as a fraction
    at = -1
    for claim in entitlement.claims:
        at += 1
        used = all_used[at]
        limit = claim.limit
        if isinstance(limit, RateLimit):
            units = limit.burst
            left = (units * MICRO - used) // MICRO
            over = ends_us[at] < 0  # in shadow, what does not fit is not counted
            if left < 0:
                left = 0
                if claim.forced:
                    reason = Reason.CRITICAL
            if limit is guard:
                continue
            tighter = left * tightest_units < tightest_left * units
        elif isinstance(limit, QuotaLimit):
            own = limit.units
            units = own
            if details:
                notified, carried, granted, _, beyond, _ = details[at]
                own += carried
                units = own + granted
                if beyond and overage is NO_OVERAGE:
                    overage = overage_of(entitlement.claims, answer)
                if limit.notices:
                    end_us = ends_us[at]
                    crossings = _add_crossings(crossings, limit, notified, used, end_us)
            left = units - used
            if used > own:
                if claim.forced and used > limit.cap + units - limit.units:
                    reason = Reason.CRITICAL
                elif reason is _OK and not limit.shadow:
                    reason = Reason.OVERAGE
            if left < 0:
                left = 0
            over = limit.shadow and used > limit.cap + units - limit.units
            # On a tie, report the quota: it recovers later.
            tighter = left * tightest_units <= tightest_left * units
        elif isinstance(limit, TeamShare):
            status = status_of(entitlement.claims, answer, at)
            left, units = status.remaining, status.limit_units
            short = status.team is not None and status.team.short
            if short and claim.forced:
                reason = Reason.CRITICAL
            over = short and limit.shadow and limit.id not in shadowed
            tighter = left * tightest_units <= tightest_left * units
        else:
            units = limit.slots
            left = units - used
            over = limit.shadow and left < 0
            if left < 0:
                left = 0
                if claim.forced:
                    reason = Reason.CRITICAL
            tighter = left * tightest_units < tightest_left * units
        if over and not claim.forced:
            shadowed += (limit.id,)
        if tighter and not limit.shadow:
            tightest, tightest_left, tightest_units = at, left, units
    return Decision(
        True,
        reason,
        now_us,
        status_of(entitlement.claims, answer, tightest) if tightest >= 0 else None,
        (),
        None,
        overage,
        tuple(crossings) if crossings else (),
        shadowed,
    )


def status_of(claims: Sequence[Claim], answer: Answer, at: int) -> LimitStatus:
    """Return the status of the limit of the `at`th claim; it resets when more is available."""
    claim, used = claims[at], answer.used[at]
    limit = claim.limit
    if isinstance(limit, TeamShare):
        quota, use = status_of(claims, answer, at - 1), team_use(claims, answer, at)
        left = min(quota.remaining, use.left)
        return quota._replace(remaining=left, team=use)
    if isinstance(limit, QuotaLimit):
        units = limit.units
        if answer.details:
            units += answer.details[at].carried + answer.details[at].left
        return LimitStatus(claim, units, used, max(0, units - used), answer.ends_us[at])
    if isinstance(limit, ConcurrencyLimit):
        return LimitStatus(claim, limit.slots, used, max(0, limit.slots - used), None)
    left = max(0, limit.burst * MICRO - used) // MICRO
    reset = answer.now_us + fits_in_us(limit, used, left + 1) if used > 0 else None
    return LimitStatus(claim, limit.burst, -(-used // MICRO), left, reset)


def overage_of(claims: Sequence[Claim], answer: Answer) -> Overage:
    """Return the overage that the event of a request reports, from the store's answer.

    A quota in shadow has none: what is tried out is not sold.
    """
    meters: dict[str, int] = {}
    limits: dict[str, int] = {}
    for claim, detail in zip(claims, answer.details, strict=False):
        units, limit = detail.overage, claim.limit
        if units and not limit.shadow:
            limits[limit.id] = units
            meters[limit.meter] = max(units, meters.get(limit.meter, 0))
    return Overage(tuple(meters.items()), tuple(limits.items())) if limits else NO_OVERAGE


def _add_crossings(
    crossings: list[ThresholdCrossing] | None,
    limit: QuotaLimit,
    notified: int,
    used: int,
    end_us: int,
) -> list[ThresholdCrossing] | None:
    for percent in limit.notices:
        if notified < percent and used * 100 >= limit.units * percent:
            crossings = crossings or []
            crossings.append(ThresholdCrossing(limit, percent, used, end_us))
    return crossings


def crossings_of(claims: Sequence[Claim], answer: Answer) -> tuple[ThresholdCrossing, ...]:
    """Return the thresholds that a settlement crossed, from the store's answer to it."""
    crossings: list[ThresholdCrossing] | None = None
    for at, claim in enumerate(claims):
        limit = claim.limit
        if isinstance(limit, QuotaLimit) and limit.notices and answer.details:
            notified, used = answer.details[at].notified, answer.used[at]
            crossings = _add_crossings(crossings, limit, notified, used, answer.ends_us[at])
    return tuple(crossings or ())


def _refused(entitlement: Entitlement, answer: Answer) -> Decision:
    now = answer.now_us
    guard = entitlement.plan.critical_guard
    claims = entitlement.claims
    known = [
        (at, status_of(claims, answer, at)) for at in range(len(claims)) if claims[at].enforced
    ]
    violated = sorted(_violated(claims, answer, known), key=_recovery)
    if not violated:
        raise StoreUnavailable("Redis refused claims that all fit by its own numbers.")
    worst = violated[0]
    abuse = any(status.claim.limit is guard for status in violated)
    return Decision(
        allowed=False,
        reason=Reason.ABUSE if abuse else Reason(worst.claim.limit.kind.reason),
        now_us=now,
        tightest=next((one for one in violated if one.claim.limit is not guard), None),
        violated=tuple(violated),
        retry_us=_retry_us(worst, now),
        wait=wait_of(violated, now),
        known=tuple([status for _, status in known]),
    )


def _retry_us(worst: LimitStatus, now_us: int) -> int | None:
    if worst.claim.limit.kind is SLOTS:  # unknown, but usually soon
        return SLOT_RETRY_US
    return None if worst.reset_us is None else worst.reset_us - now_us


def _recovery(status: LimitStatus) -> tuple[int, int]:
    """A sort key: first limits that never recover, then the latest, then slots (unknown)."""
    if status.reset_us is None:
        return (2, 0) if status.claim.limit.kind is SLOTS else (0, 0)
    return 1, -status.reset_us


def _violated(
    claims: Sequence[Claim], answer: Answer, known: Sequence[tuple[int, LimitStatus]]
) -> Iterable[LimitStatus]:
    for at, status in known:
        claim = claims[at]
        limit, cost, used = claim.limit, claim.cost, answer.used[at]
        if isinstance(limit, RateLimit):
            if used + limit.weight(cost) > limit.full:
                wait = None if cost > limit.burst else fits_in_us(limit, used, cost)
                yield status._replace(reset_us=None if wait is None else answer.now_us + wait)
        elif status.team is not None:
            # If the quota itself refuses, its own claim reports that.
            if status.team.left < cost <= status.team.room:
                yield status._replace(reset_us=None if cost > status.team.most else status.reset_us)
        elif isinstance(limit, QuotaLimit):
            extra = status.limit_units - limit.units
            if used + cost > limit.cap + extra:
                never = cost > _most_ever(claims, answer, at, limit)
                yield status._replace(reset_us=None if never else status.reset_us)
        elif used + 1 > limit.full:
            yield status


def _most_ever(claims: Sequence[Claim], answer: Answer, at: int, quota: QuotaLimit) -> int:
    """Return how much a request can take of a new period: other teams' guarantees stay theirs."""
    following = at + 1
    if following < len(claims) and isinstance(claims[following].limit, TeamShare):
        return team_use(claims, answer, following).most
    return quota.cap
