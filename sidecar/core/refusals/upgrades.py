"""Which plan up the ladder would have let a refused call through."""

from collections.abc import Sequence

from sidecar.core.model import (
    ConcurrencyLimit,
    Entitlement,
    Limit,
    Plan,
    PlanBook,
    QuotaLimit,
    RateLimit,
)
from sidecar.core.periods import usual_s
from sidecar.core.reasons import LimitStatus


def plan_without(
    book: PlanBook, entitlement: Entitlement, violated: Sequence[LimitStatus]
) -> str | None:
    """The first plan above the caller's whose limits are higher than each of the violated ones,
    or that lacks them, and that includes the route. None when there is none."""
    higher = [plan for plan in book.plans.values() if plan.rank > entitlement.plan.rank]
    for plan in sorted(higher, key=lambda plan: plan.rank):
        there = book.entitlements.get((plan.id, entitlement.route.id))
        if there is None or there.missing:
            continue
        if all(_relieves(plan, standing) for standing in violated):
            return plan.id
    return None


def _relieves(plan: Plan, standing: LimitStatus) -> bool:
    limit = standing.claim.limit
    return all(
        _allows_more(other, limit, standing.claim.cost) for other in _counterparts(plan, limit)
    )


def _counterparts(plan: Plan, limit: Limit) -> list[Limit]:
    """The plan's limit of the same id, else all of the same kind on the same meter."""
    alike = [
        other
        for other in plan.limits
        if type(other) is type(limit) and other.meter == limit.meter and other.per == limit.per
    ]
    return [other for other in alike if other.id == limit.id] or alike


def _allows_more(other: Limit, limit: Limit, cost: int) -> bool:
    if isinstance(other, RateLimit) and isinstance(limit, RateLimit):
        faster = other.units * limit.window_us > limit.units * other.window_us
        return other.burst >= cost and (faster or other.burst > limit.burst)
    if isinstance(other, QuotaLimit) and isinstance(limit, QuotaLimit):
        mine, theirs = usual_s(limit.period), usual_s(other.period)
        return other.cap >= cost and other.cap * mine > limit.cap * theirs
    if isinstance(other, ConcurrencyLimit) and isinstance(limit, ConcurrencyLimit):
        return other.slots > limit.slots
    return False
