"""Which later plan, in plan order, would have allowed a refused request."""

from sidecar.core.claims import claims_for
from sidecar.core.kinds import SLOTS, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim, Entitlement, Plan, PlanBook
from sidecar.core.periods import usual_s
from sidecar.core.reasons import Decision, LimitStatus


def next_plan(
    book: PlanBook, entitlement: Entitlement, account: Account, decision: Decision
) -> str | None:
    """Return the next plan that would allow the request: it has the route, and its limits fit.

    Usage stays with a move, so a limit of the same id has its present usage. A limit that refuses
    now must be higher, or absent. None if no plan would do.
    """
    route = entitlement.route
    known = {
        (status.claim.limit.kind, status.claim.limit.id): status
        for status in decision.known
        if status.team is None
    }
    teams = {status.claim.limit.id: status for status in decision.known if status.team}
    team = next((status.team.team for status in teams.values() if status.team), None)
    higher = [plan for plan in book.plans.values() if plan.rank > entitlement.plan.rank]
    for plan in sorted(higher, key=lambda plan: plan.rank):
        if not all(_relieves(plan, status) for status in decision.violated):
            continue
        offered = book.entitlements.get((plan.id, route.id))
        if offered is None or offered.missing:
            continue
        claims = claims_for(offered, dict(route.cost))
        if all(
            _fits(claim, known.get((claim.limit.kind, claim.limit.id)))
            and _fits_team(claim, account, team, teams.get(claim.limit.id))
            for claim in claims
            if claim.enforced
        ):
            return plan.id
    return None


def _fits(claim: Claim, status: LimitStatus | None) -> bool:
    """Whether a limit of another plan allows the request, with the usage that is known."""
    limit = claim.limit
    used = 0 if status is None or status.claim.limit.per != limit.per else _used(limit, status)
    return used + (1 if limit.kind is SLOTS else claim.cost) <= limit.capacity


def _used(limit: Limit, status: LimitStatus) -> int:
    """Return what another plan's limit of the same id counts as used, at most.

    A bucket stores what was used and when, and drains at the rate of the plan that reads it. So a
    slower rate gives less back since then: how much less is unknown, but it was no more than full.
    """
    now = status.claim.limit
    if isinstance(limit, RateLimit) and isinstance(now, RateLimit):
        slower = limit.units * now.window_us < now.units * limit.window_us
        return max(status.used, now.burst) if slower else status.used
    return status.used


def _fits_team(
    claim: Claim, account: Account, team: str | None, status: LimitStatus | None
) -> bool:
    """Whether it leaves other teams' guarantees in another plan, if none of them is used yet.

    `team` is None if it is unknown. `status`: of the team's share of a quota of the same id.
    """
    quota = claim.limit
    if not account.teams or not isinstance(quota, QuotaLimit) or quota.per != "account":
        return True
    if status is not None and status.team is not None:
        own = next((one.percent for one in account.teams if one.id == team), 0)
        larger = quota.units * own // 100 >= status.team.guaranteed
        if larger and claim.cost <= status.team.kept:
            return True
    used = 0 if status is None else status.used
    others = (quota.units * one.percent // 100 for one in account.teams if one.id != team)
    return claim.cost + sum(others) <= quota.cap - used


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
