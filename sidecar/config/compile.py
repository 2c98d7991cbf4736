"""A valid file → the plan book: plain values, and every plan's word on every route."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from sidecar.config import models, values
from sidecar.core.json_path import JsonPath
from sidecar.core.model import (
    UNBOUNDED,
    Account,
    CallClass,
    Claim,
    Entitlement,
    Key,
    Limit,
    Links,
    Meter,
    Plan,
    PlanBook,
    QuotaLimit,
    RateLimit,
    Reserve,
    Route,
)
from sidecar.core.ratelimit_fields import policy_field

GUARD_RATE: Final = "1000/s"
GUARD_BURST: Final = 5_000
STILL_AVAILABLE: Final = 8  # a refusal lists this many routes at most


def compile_book(file: models.FileModel, version: str) -> PlanBook:
    """The book of a file that `check` found sound."""
    meters = {name: _meter(name, model) for name, model in file.meters.items()}
    routes = tuple(_route(model, meters) for model in file.routes)
    estimates = {model.id: _estimates(model, meters) for model in file.routes}
    plans = {plan_id: _plan(plan_id, rank, file.plans) for rank, plan_id in enumerate(file.plans)}
    accounts = {model.id: _account(model) for model in file.accounts}
    return PlanBook(
        version=version,
        meters=meters,
        routes=routes,
        plans=plans,
        entitlements={
            (plan.id, route.id): _known_late(
                _entitlement(plan, route, routes, plans), estimates[route.id], meters
            )
            for plan in plans.values()
            for route in routes
        },
        accounts=accounts,
        keys={
            bytes.fromhex(key.sha256): Key(key.id, accounts[model.id])
            for model in file.accounts
            for key in model.keys
        },
        anonymous_plan=file.anonymous.plan if file.anonymous else None,
        links=Links(file.links.upgrade, file.links.docs),
    )


def lineage(plan_id: str, plans: dict[str, models.PlanModel]) -> Iterator[models.PlanModel]:
    """A plan and what it extends, the oldest first."""
    chain = []
    at: str | None = plan_id
    while at is not None:
        chain.append(plans[at])
        at = plans[at].extends
    return reversed(chain)


def _meter(name: str, model: models.MeterModel) -> Meter:
    reserve, settle = model.reserve, model.settle
    return Meter(
        name,
        model.unit,
        Reserve(JsonPath.parse(reserve.path), reserve.default, reserve.max_bytes)
        if reserve
        else None,
        JsonPath.parse(settle.path) if settle else None,
    )


def _route(model: models.RouteModel, meters: dict[str, Meter]) -> Route:
    method, pattern = split_match(model.match)
    costs = {meter: units for meter, units in model.cost.items() if units != "reserve"}
    # A cost of 0 is none, but where the real one is told later.
    costs = {meter: units for meter, units in costs.items() if units or meters[meter].settle}
    costs |= {meter: reserve.default for meter, reserve in _estimates(model, meters)}
    return Route(
        model.id, model.match, method, pattern, CallClass(model.call_class),
        frozenset(model.needs), tuple(sorted(costs.items())),
    )  # fmt: skip


def _estimates(
    model: models.RouteModel, meters: dict[str, Meter]
) -> tuple[tuple[str, Reserve], ...]:
    reserves = {
        meter: meters[meter].reserve for meter, cost in model.cost.items() if cost == "reserve"
    }
    return tuple(sorted((meter, reserve) for meter, reserve in reserves.items() if reserve))


def split_match(match: str) -> tuple[str | None, str]:
    """ "POST /v1/x" → ("POST", "/v1/x")."""
    method, space, pattern = match.partition(" ")
    return (method, pattern) if space else (None, match)


def _plan(plan_id: str, rank: int, plans: dict[str, models.PlanModel]) -> Plan:
    features: tuple[str, ...] = ()
    limits: dict[str, Limit] = {}
    guard = models.GuardModel(rate=GUARD_RATE, burst=GUARD_BURST)
    down: str = "deny"
    tunnels: str = "keep"
    for model in lineage(plan_id, plans):
        features = features if model.features is None else model.features
        limits |= {limit.id: _limit(limit) for limit in model.limits}
        guard = model.critical or guard
        down = model.when_store_is_down or down
        tunnels = model.tunnels_at_quota or tunnels
    units, window = values.rate(guard.rate)
    bucket = RateLimit(
        "critical", "calls", units, window, guard.burst or units, values.refill(units, window)
    )
    return Plan(
        plan_id, rank, frozenset(features), tuple(limits.values()), bucket,
        "allow" if down == "allow" else "deny", tunnels == "close",
    )  # fmt: skip


def _limit(model: models.LimitModel) -> Limit:
    if model.rate is not None:
        units, window = values.rate(model.rate)
        refill = values.refill(units, window)
        return RateLimit(
            model.id, model.meter, units, window, model.burst or units, refill, model.per
        )
    units, period = values.quota(model.quota)
    notices, reject = models.behaviour(model.at)
    cap = UNBOUNDED if reject is None else units * reject // 100
    return QuotaLimit(model.id, model.meter, units, period, cap, notices, model.per)


def _account(model: models.AccountModel) -> Account:
    suspended = model.status == "suspended"
    return Account(model.id, model.plan, model.timezone, model.anchor, suspended)


def _entitlement(
    plan: Plan, route: Route, routes: tuple[Route, ...], plans: dict[str, Plan]
) -> Entitlement:
    costs = dict(route.cost)
    critical = route.call_class is CallClass.CRITICAL
    touched = tuple(limit for limit in plan.limits if limit.meter in costs)
    claims = tuple(Claim(limit, costs[limit.meter], critical) for limit in touched)
    if critical:
        claims += (Claim(plan.critical_guard, 1, False),)
    ladder = sorted(plans.values(), key=lambda other: (other.rank < plan.rank, other.rank))
    has_all = (other.id for other in ladder if route.needs <= other.features)
    missing = tuple(sorted(route.needs - plan.features))
    return Entitlement(
        plan=plan,
        route=route,
        claims=claims,
        missing=missing,
        missing_in=next(has_all, None) if missing else None,
        policy_field=policy_field(touched),
        still_available=tuple(_open(plan, routes))[:STILL_AVAILABLE],
    )


def _known_late(
    entitlement: Entitlement, estimates: tuple[tuple[str, Reserve], ...], meters: dict[str, Meter]
) -> Entitlement:
    settles = ((meter, meters[meter].settle) for meter, _ in entitlement.route.cost)
    return replace(
        entitlement,
        estimates=estimates,
        read_up_to=max((reserve.bound for _, reserve in estimates), default=0),
        settles=tuple((meter, path) for meter, path in settles if path),
    )


def _open(plan: Plan, routes: tuple[Route, ...]) -> Iterator[str]:
    limited = {limit.meter for limit in plan.limits}
    for route in routes:
        free = not limited & {meter for meter, _ in route.cost}
        if route.needs <= plan.features and (free or route.call_class is CallClass.CRITICAL):
            yield route.match
