"""Plans as they are sold: with what they inherit, and with the costs of the routes they reach."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from sidecar.config import limit_kinds, models, values
from sidecar.config.inheritance import inherited
from sidecar.config.positions import Path
from sidecar.core.kinds import MICRO, UNBOUNDED
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
    counted, but not refused. `dearest` has, by meter, the highest of the costs. `counts_any`:
    whether a route that the plan reaches costs anything.
    """

    name: str
    features: frozenset[str]
    limits: Mapping[str, SoldLimit]
    costs: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    forced: set[str] = field(default_factory=set)
    dearest: dict[str, int] = field(default_factory=dict)

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


@dataclass(frozen=True, slots=True)
class _Own:
    """What a plan has of its own or from the plans that it extends."""

    features: frozenset[str] = _NOTHING
    limits: Mapping[str, tuple[Path, models.LimitModel]] = field(default_factory=dict)
    shadow: bool = False

    def extended(self, name: str, model: models.PlanModel) -> "_Own":
        """Return what a plan that extends this one has."""
        limits = {
            limit.id: (("plans", name, "limits", number), limit)
            for number, limit in enumerate(model.limits)
        }
        return _Own(
            self.features if model.features is None else frozenset(model.features),
            {**self.limits, **limits},
            self.shadow or model.enforce == "shadow",
        )


@dataclass(frozen=True, slots=True)
class _Reached:
    """What the routes cost that all plans with the same needed features reach."""

    costs: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    forced: set[str] = field(default_factory=set)
    dearest: dict[str, int] = field(default_factory=dict)


def sold_plans(file: models.FileModel) -> Iterator[SoldPlan]:
    """Each plan of a valid file, in its order. Plans with the same features share their costs."""
    needed = frozenset(feature for route in file.routes for feature in route.needs)
    reached: dict[frozenset[str], _Reached] = {}
    for name, own in inherited(file.plans, _Own(), _Own.extended).items():
        features = own.features & needed
        if features not in reached:
            reached[features] = _reached(file, features)
        of = reached[features]
        limits = {
            limit_id: SoldLimit(path, limit, own.shadow or limit.enforce == "shadow")
            for limit_id, (path, limit) in own.limits.items()
        }
        yield SoldPlan(name, own.features, limits, of.costs, of.forced, of.dearest)


def _reached(file: models.FileModel, features: frozenset[str]) -> _Reached:
    found = _Reached()
    for route in file.routes:
        if not features.issuperset(route.needs):
            continue
        costs = dict(_costs(route, file))
        if route.request_class == "critical":
            found.forced.update(costs)
            continue
        for meter, units in costs.items():
            found.costs.setdefault(meter, []).append((units, route.id))
            found.dearest[meter] = max(units, found.dearest.get(meter, 0))
    return found


def _costs(route: models.RouteModel, file: models.FileModel) -> Iterator[tuple[str, int]]:
    """The meters that a route counts, and its cost or the default of its estimate."""
    for name, cost in route.cost.items():
        meter = file.meters[name]
        units = cost if isinstance(cost, int) else meter.reserve.default if meter.reserve else 0
        if units or meter.settle is not None:
            yield name, units
