"""Plans as they are sold: with what they inherit, and with the costs of the routes they reach."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from sidecar.config import limit_kinds, models, values
from sidecar.config.positions import Path
from sidecar.core.model import MICRO, UNBOUNDED
from sidecar.core.periods import PERIODS

_rate = lru_cache(maxsize=1_024)(values.rate)
_quota = lru_cache(maxsize=1_024)(values.quota)


@dataclass(frozen=True, slots=True)
class SoldLimit:
    """One limit of a plan, and where the file defines it. `shadow`: it refuses nothing."""

    path: Path
    model: models.LimitModel
    shadow: bool

    @property
    def meter(self) -> str | None:
        """The meter that it counts; None for requests in flight."""
        return self.model.meter

    @property
    def rate(self) -> tuple[int, int, int] | None:
        """Units, window in µs, and burst of a rate."""
        if self.model.rate is None:
            return None
        units, window_us = _rate(self.model.rate)
        return units, window_us, self.model.burst or units

    @property
    def quota(self) -> tuple[int, str] | None:
        """Units and period of a quota."""
        return None if self.model.quota is None else _quota(self.model.quota)

    @property
    def cap(self) -> int:
        """The units of a quota that one period allows, with those carried over and overage."""
        units, _ = _quota(self.model.quota)
        _, reject = limit_kinds.thresholds(self.model.at)
        carried = units * values.rollover(self.model.rollover) // 100 if self.model.rollover else 0
        return UNBOUNDED if reject is None else units * reject // 100 + carried

    def most_in(self, period: str) -> int | None:
        """The most units that this limit allows within one `period`; None: not known."""
        longest_s = PERIODS[period].longest_s if period in PERIODS else int(period[:-1])
        if self.rate is not None:
            units, window_us, burst = self.rate
            return burst + -(-units * longest_s * MICRO // window_us)
        if self.quota is None or self.cap >= UNBOUNDED:
            return None
        own = self.quota[1]
        usual_s = PERIODS[own].usual_s if own in PERIODS else int(own[:-1])
        return self.cap * (1 if own == period else -(-longest_s // usual_s) + 1)


@dataclass(frozen=True, slots=True)
class SoldPlan:
    """A plan with its own and inherited features and limits.

    `costs` has, by meter, the cost and id of each route that the plan reaches and whose requests
    can be refused. `forced` has the meters of critical routes. A request of a critical route is
    counted, but not refused. `counts_any`: whether a route that the plan reaches costs anything.
    """

    name: str
    features: frozenset[str]
    limits: Mapping[str, SoldLimit]
    costs: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    forced: set[str] = field(default_factory=set)

    @property
    def counts_any(self) -> bool:
        """Whether any route that the plan reaches has a cost."""
        return bool(self.costs or self.forced)

    def counts(self, limit: SoldLimit) -> bool:
        """Whether a request of the plan can count against a limit."""
        if limit.meter is None:
            return self.counts_any
        return limit.meter in self.costs or limit.meter in self.forced


_NOTHING: Final[frozenset[str]] = frozenset()


def sold_plans(file: models.FileModel) -> Iterator[SoldPlan]:
    """Each plan of a valid file, in its order."""
    routes = [(route, frozenset(route.needs), dict(_costs(route, file))) for route in file.routes]
    for name in file.plans:
        plan = _with_parents(name, file)
        for route, needs, costs in routes:
            if not needs <= plan.features:
                continue
            if route.request_class == "critical":
                plan.forced.update(costs)
                continue
            for meter, units in costs.items():
                plan.costs.setdefault(meter, []).append((units, route.id))
        yield plan


def _with_parents(name: str, file: models.FileModel) -> SoldPlan:
    features, limits, shadow = _NOTHING, dict[str, tuple[Path, models.LimitModel]](), False
    names = {id(model): plan for plan, model in file.plans.items()}
    for model in lineage(name, file.plans):
        features = features if model.features is None else frozenset(model.features)
        shadow = shadow or model.enforce == "shadow"
        for number, limit in enumerate(model.limits):
            limits[limit.id] = ("plans", names[id(model)], "limits", number), limit
    return SoldPlan(
        name,
        features,
        {
            limit_id: SoldLimit(path, limit, shadow or limit.enforce == "shadow")
            for limit_id, (path, limit) in limits.items()
        },
    )


def _costs(route: models.RouteModel, file: models.FileModel) -> Iterator[tuple[str, int]]:
    """The meters that a route counts, and its cost or the default of its estimate."""
    for name, cost in route.cost.items():
        meter = file.meters[name]
        units = cost if isinstance(cost, int) else meter.reserve.default if meter.reserve else 0
        if units or meter.settle is not None:
            yield name, units


def lineage(plan_id: str, plans: Mapping[str, models.PlanModel]) -> Iterator[models.PlanModel]:
    """A plan and the plans that it extends, directly or not; the outermost first."""
    chain = []
    at: str | None = plan_id
    while at is not None:
        chain.append(plans[at])
        at = plans[at].extends
    return reversed(chain)
