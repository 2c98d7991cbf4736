"""Which later plan, in plan order, would have allowed a refused request."""

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
    """Return the next plan that includes the route and relieves each violated limit.

    It has no such limit, or a higher one. None if no plan does.
    """
    higher = [plan for plan in book.plans.values() if plan.rank > entitlement.plan.rank]
    for plan in sorted(higher, key=lambda plan: plan.rank):
        offered = book.entitlements.get((plan.id, entitlement.route.id))
        if offered is None or offered.missing:
            continue
        if all(_relieves(plan, status) for status in violated):
            return plan.id
    return None


def _relieves(plan: Plan, status: LimitStatus) -> bool:
    limit, cost = status.claim.limit, status.claim.cost
    return all(_allows_more(other, limit, cost) for other in _counterparts(plan, limit))


def _counterparts(plan: Plan, limit: Limit) -> list[Limit]:
    """Return the plan's limit of the same id, else all of the same kind on the same meter."""
    alike = [
        other
        for other in plan.limits
        if other.kind is limit.kind and other.meter == limit.meter and other.per == limit.per
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
