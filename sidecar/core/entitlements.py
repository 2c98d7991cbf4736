"""Entitlements of a plan book: one for each plan and route, computed when it is first needed.

A file with many plans and many routes has far more pairs of them than its requests use. So the
time to read a plan file grows with its length, not with plans times routes.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final

from sidecar.core.costs import Meter, Reserve
from sidecar.core.json_cost import JsonCost
from sidecar.core.json_path import JsonPath
from sidecar.core.kinds import SLOTS, Limit, QuotaLimit
from sidecar.core.model import Claim, Entitlement, Plan, RequestClass, Route
from sidecar.core.refusals.ratelimit_fields import policy_field

Estimates = tuple[tuple[str, Reserve], ...]  # by meter
MOST_AVAILABLE: Final = 8  # routes that a refusal lists as still available


class Entitlements(Mapping[tuple[str, str], Entitlement]):
    """The entitlement of each (plan id, route id). Equal requests have the same object.

    `plans` are in plan order. `estimates`: by route id, what its requests contain.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        routes: Sequence[Route],
        estimates: Mapping[str, Estimates],
        meters: Mapping[str, Meter],
    ) -> None:
        self.parts = plans, routes, estimates, meters
        self._plans = {plan.id: _PlanRoutes(plan, plans, routes) for plan in plans}
        self._routes = {route.id: route for route in routes}
        self._estimates = estimates
        self._meters = meters
        self._known: dict[tuple[str, str], Entitlement] = {}

    def get(self, names: tuple[str, str], default: Any = None) -> Any:
        """Return the entitlement, `default` without such a plan or route."""
        known = self._known.get(names)
        return known if known is not None else self._find(names, default)

    def _find(self, names: tuple[str, str], default: Any) -> Any:
        plan, route = self._plans.get(names[0]), self._routes.get(names[1])
        if plan is None or route is None:
            return default
        found = self._known[names] = self._entitlement(plan, route)
        return found

    def __getitem__(self, names: tuple[str, str]) -> Entitlement:
        found: Entitlement | None = self.get(names)
        if found is None:
            raise KeyError(names)
        return found

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((plan, route) for plan in self._plans for route in self._routes)

    def __len__(self) -> int:
        return len(self._plans) * len(self._routes)

    def _entitlement(self, of: "_PlanRoutes", route: Route) -> Entitlement:
        plan = of.plan
        costs = dict(route.cost)
        critical = route.request_class is RequestClass.CRITICAL
        applied = tuple(limit for limit in plan.limits if _applies(limit, costs))
        claims = tuple(Claim(limit, costs.get(limit.meter, 1), critical) for limit in applied)
        if critical:
            claims += (Claim(plan.critical_guard, 1, False),)
        sources = ((meter, self._meters[meter].settle) for meter, _ in route.cost)
        settles = tuple((meter, source) for meter, source in sources if source)
        estimates = self._estimates[route.id]
        slots = any(limit.kind is SLOTS for limit in applied)
        reads = tuple((m, path) for m, path in settles if isinstance(path, JsonPath | JsonCost))
        may_be_returned = bool(plan.refunds) or plan.orphans == "release"
        may_change = bool(settles) or may_be_returned or slots
        counted = {
            limit.meter
            for limit in applied
            if isinstance(limit, QuotaLimit) and not limit.shadow  # which has no overage
        }
        late = any(meter in counted for meter, _ in settles)
        return Entitlement(
            plan=plan,
            route=route,
            claims=claims,
            missing=tuple(sorted(route.needs - plan.features)),
            missing_in=of.next_with(route.needs),
            policy_field=policy_field(applied),
            still_available=of.still_available,
            estimates=estimates,
            read_up_to=max((reserve.bound for _, reserve in estimates), default=0),
            settles=settles,
            caps=tuple((meter, most) for meter, _ in settles if (most := self._meters[meter].most)),
            reads=reads,
            fallbacks=tuple(
                (meter, rule) for meter, _ in settles if (rule := self._meters[meter].fallback)
            ),
            reads_response=bool(reads) or "upstream_error" in plan.refunds,
            stays_open=may_change and bool(claims),
            late_overage=bool(counted) and (late or may_be_returned),
        )


class _PlanRoutes:
    """What all entitlements of one plan have in common."""

    def __init__(self, plan: Plan, plans: Sequence[Plan], routes: Sequence[Route]) -> None:
        self.plan = plan
        self._plans = plans
        self._routes = routes

    @cached_property
    def still_available(self) -> tuple[str, ...]:
        """The first routes that no limit of the plan can refuse."""
        limited = {limit.meter for limit in self.plan.limits}
        return tuple(islice(self._available(limited), MOST_AVAILABLE))

    def _available(self, limited: set[str]) -> Iterator[str]:
        for route in self._routes:
            if route.request_class is not RequestClass.CRITICAL and any(
                meter in limited for meter, _ in route.cost
            ):
                continue
            if route.needs <= self.plan.features:
                yield route.match

    def next_with(self, needs: frozenset[str]) -> str | None:
        """Return the next plan with these features, from this one on and then from the lowest.

        None if this plan has them, or no plan does.
        """
        if needs <= self.plan.features:
            return None
        rank = self.plan.rank
        higher_first = (*self._plans[rank + 1 :], *self._plans[:rank])
        return next((plan.id for plan in higher_first if needs <= plan.features), None)


def _applies(limit: Limit, costs: Mapping[str, int]) -> bool:
    """Whether a limit counts a request with these costs. Without a cost it takes no slot either."""
    return limit.meter in costs or (limit.kind is SLOTS and bool(costs))
