"""Compile a valid plan file into a plan book."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from sidecar.config import late_costs, limit_kinds, models, values
from sidecar.config.inheritance import inherited
from sidecar.config.route_patterns import split_match
from sidecar.core.costs import BodySize, Fallback, HeaderSource, Meter, Reserve, Source
from sidecar.core.entitlements import Entitlements, Estimates
from sidecar.core.json_cost import Formula, JsonCost
from sidecar.core.json_path import JsonPath
from sidecar.core.kinds import UNBOUNDED, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import (
    Account,
    Key,
    Links,
    Orphans,
    Pack,
    Plan,
    PlanBook,
    PlanChange,
    RequestClass,
    Route,
    StoreDownMode,
    Team,
)
from sidecar.core.periods import midnight

GUARD_RATE: Final = "1000/s"
GUARD_BURST: Final = 5_000


def compile_book(file: models.FileModel, version: str) -> PlanBook:
    """The plan book of a file in which `check` has found nothing."""
    meters = {name: _meter(name, model) for name, model in file.meters.items()}
    routes = tuple(_route(model, meters) for model in file.routes)
    estimates = {model.id: _estimates(model, meters) for model in file.routes}
    has = inherited(file.plans, _Inherited(), _Inherited.extended)
    plans = {name: _plan(name, rank, has[name]) for rank, name in enumerate(file.plans)}
    accounts = {model.id: _account(model) for model in file.accounts}
    return PlanBook(
        version=version,
        meters=meters,
        routes=routes,
        plans=plans,
        entitlements=Entitlements(tuple(plans.values()), routes, estimates, meters),
        accounts=accounts,
        keys={
            bytes.fromhex(key.sha256): Key(key.id, accounts[model.id], key.team or "")
            for model in file.accounts
            for key in model.keys
        },
        anonymous_plan=file.anonymous.plan if file.anonymous else None,
        links=Links(file.links.upgrade, file.links.docs, file.links.packs),
        packs=_packs(file.packs, file.plans.values()),
        downgrades=file.downgrades,
    )


def _meter(name: str, model: models.MeterModel) -> Meter:
    reserve, settle = model.reserve, model.settle
    return Meter(
        name,
        model.unit,
        _reserve(reserve) if reserve else None,
        _settle(settle) if settle else None,
        _most(settle) if settle else None,
        _fallback(settle.fallback) if settle and settle.fallback else None,
    )


def _most(settle: late_costs.SettleModel) -> int | None:
    """The most units that one request settles; None: no bound, for sizes that were measured."""
    if settle.most is not None or settle.size is not None:
        return settle.most
    return late_costs.MOST_SETTLED


def _reserve(model: late_costs.ReserveModel) -> Reserve:
    path: JsonPath | Formula | HeaderSource | None = None
    if model.header is not None:
        path = HeaderSource(model.header.lower().encode())
    elif model.path is not None:
        path = _path(model.path)
    size = model.bytes_per_unit or 0
    return Reserve(
        path,
        max(model.default, model.least),
        0 if isinstance(path, HeaderSource) and not size else model.max_bytes,
        model.least,
        size,
        greater=model.take == "greater",
    )


def _fallback(model: late_costs.FallbackModel) -> Fallback:
    return Fallback(
        model.units_per_event or 0,
        model.bytes_per_unit or 0,
        at_estimate=model.at_least == "estimate",
    )


def _settle(model: late_costs.SettleModel) -> Source:
    """The source that is set; the models allow exactly one."""
    if model.header is not None:
        return HeaderSource(model.header.lower().encode())
    if model.size is not None:
        return BodySize(model.size)
    path = _path(model.path or ())
    if isinstance(path, JsonPath) and model.stream is None and model.missing is None:
        return path
    whole = Formula.parse(model.path or ())
    stream = whole if model.stream is None else Formula.parse(model.stream)
    return JsonCost(whole, stream, model.missing)


def _path(texts: tuple[str, ...]) -> JsonPath | Formula:
    """One path without arithmetic as such, else a formula."""
    formula = Formula.parse(texts)
    return formula.paths[0] if formula.text == formula.paths[0].text else formula


def _route(model: models.RouteModel, meters: dict[str, Meter]) -> Route:
    method, pattern = split_match(model.match)
    costs = {meter: units for meter, units in model.cost.items() if units != "reserve"}
    # A cost of 0 is dropped, except where the response may raise it.
    costs = {meter: units for meter, units in costs.items() if units or meters[meter].settle}
    costs |= {meter: reserve.default for meter, reserve in _estimates(model, meters)}
    return Route(
        model.id,
        model.match,
        method,
        pattern,
        RequestClass(model.request_class),
        frozenset(model.needs),
        tuple(sorted(costs.items())),
        model.ask_usage,
    )


def _estimates(model: models.RouteModel, meters: dict[str, Meter]) -> Estimates:
    reserves = {
        meter: meters[meter].reserve for meter, cost in model.cost.items() if cost == "reserve"
    }
    return tuple(sorted((meter, reserve) for meter, reserve in reserves.items() if reserve))


@dataclass(frozen=True)
class _Inherited:
    """What a plan has of its own or from the plans that it extends."""

    features: tuple[str, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    guard: models.GuardModel | None = None
    store_down: StoreDownMode = "local"
    tunnels: str = "keep"
    orphans: Orphans = "charge"
    refunds: tuple[str, ...] = ()
    enforce: str | None = None

    def extended(self, _name: str, model: models.PlanModel) -> "_Inherited":
        """Return what a plan that extends this one has."""
        return _Inherited(
            self.features if model.features is None else model.features,
            {**self.limits, **{limit.id: _limit(limit) for limit in model.limits}},
            model.critical or self.guard,
            model.when_store_is_down or self.store_down,
            model.tunnels_at_quota or self.tunnels,
            model.when_sidecar_dies or self.orphans,
            self.refunds if model.refund is None else model.refund,
            model.enforce or self.enforce,
        )


def _plan(plan_id: str, rank: int, has: _Inherited) -> Plan:
    limits = has.limits
    if has.enforce == "shadow":
        limits = {name: replace(limit, shadow=True) for name, limit in limits.items()}
    bucket = _guard(has.guard, has.limits.values())
    return Plan(
        plan_id,
        rank,
        frozenset(has.features),
        tuple(limits.values()),
        bucket,
        has.store_down,
        has.tunnels == "close",
        frozenset(has.refunds),
        has.orphans,
    )


def _guard(model: models.GuardModel | None, limits: Iterable[Limit]) -> RateLimit:
    """The bucket of requests to critical routes.

    By default it is the usual one, or the highest rate of an account if the plan sells more than
    that: a client that keeps to its plan never reaches it.
    """
    if model is not None:
        units, window = values.rate(model.rate)
        burst = model.burst or units
    else:
        units, window = values.rate(GUARD_RATE)
        burst = GUARD_BURST
        for limit in limits:
            if isinstance(limit, RateLimit) and limit.units * window > units * limit.window_us:
                units, window, burst = limit.units, limit.window_us, max(burst, limit.burst)
    refill = values.refill(units, window)
    burst = burst if values.exact(burst, refill) else units
    return RateLimit("critical", "calls", units, window, burst, refill)


def _limit(model: models.LimitModel) -> Limit:
    shadow = model.enforce == "shadow"
    wait_us = values.max_wait(model.max_wait) if model.max_wait else 0
    if model.concurrency is not None:
        return ConcurrencyLimit(model.id, model.concurrency, model.per, shadow, max_wait_us=wait_us)
    meter = model.meter or ""
    if model.rate is not None:
        units, window = values.rate(model.rate)
        refill = values.refill(units, window)
        burst = model.burst or units
        return RateLimit(model.id, meter, units, window, burst, refill, model.per, shadow, wait_us)
    units, period = values.quota(model.quota)
    notices, reject = limit_kinds.thresholds(model.at)
    cap = UNBOUNDED if reject is None else units * reject // 100
    carried = units * values.rollover(model.rollover) // 100 if model.rollover else 0
    return QuotaLimit(model.id, meter, units, period, cap, notices, model.per, carried, shadow)


def _packs(
    packs: Mapping[str, models.PackModel], plans: Iterable[models.PlanModel]
) -> dict[str, Pack]:
    quotas = quotas_of(plans)
    return {
        name: Pack(
            name,
            model.limit or next(iter(quotas[model.meter])),
            model.meter,
            model.units,
            model.lasts,
            model.price,
            model.priority,
        )
        for name, model in packs.items()
    }


def quotas_of(plans: Iterable[models.PlanModel]) -> dict[str, dict[str, None]]:
    """Meter → ids of its quotas per account, in the order of the file."""
    quotas: dict[str, dict[str, None]] = {}
    for plan in plans:
        for limit in plan.limits:
            if limit.quota is not None and limit.meter is not None and limit.per == "account":
                quotas.setdefault(limit.meter, {})[limit.id] = None
    return quotas


def _account(model: models.AccountModel) -> Account:
    suspended = model.status == "suspended"
    teams = tuple(
        Team(name, values.share(team.share), team.lend) for name, team in model.teams.items()
    )
    change = None
    if model.then is not None:
        change = PlanChange(model.then.plan, midnight(model.then.day, model.timezone))
    return Account(
        model.id, model.plan, model.timezone, model.anchor, suspended, teams, model.webhook, change
    )
