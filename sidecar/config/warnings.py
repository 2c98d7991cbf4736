"""Parts of a valid plan file that can never have an effect, or are probably not what was meant."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sidecar.config import foreign_patterns, idle_limits, models, values
from sidecar.config.positions import Finding, Path
from sidecar.config.sold_plans import SoldPlan, sold_plans
from sidecar.core.kinds import MICRO


def warnings(file: models.FileModel, data: Any, now: datetime) -> Iterator[Finding]:
    """Every warning about a valid file: path, and what can never be; what to do instead."""
    plans = list(sold_plans(file))
    yield from _variables(data)
    yield from _matches(file)
    yield from idle_limits.findings(file, plans)
    yield from _meters(file)
    yield from _plans(file)
    yield from _features(file)
    yield from _guards(file)
    yield from _packs(file, plans, now)
    yield from _teams(file, plans)


def _variables(data: Any, path: Path = ()) -> Iterator[Finding]:
    """Strings in which a variable was meant to be replaced."""
    if isinstance(data, str) and values.has_variable(data):
        yield path, values.NOT_EXPANDED
    elif isinstance(data, dict):
        for name, part in data.items():
            yield from _variables(part, (*path, name))
    elif isinstance(data, list):
        for number, part in enumerate(data):
            yield from _variables(part, (*path, number))


def _matches(file: models.FileModel) -> Iterator[Finding]:
    for number, route in enumerate(file.routes):
        warning = foreign_patterns.warning(route.match)
        if warning:
            yield ("routes", number, "match"), warning


def _meters(file: models.FileModel) -> Iterator[Finding]:
    costed = {name for route in file.routes for name, cost in route.cost.items() if cost != 0}
    costed |= {name for route in file.routes for name in route.cost if file.meters[name].settle}
    for name in file.meters:
        if name not in costed:
            yield (
                ("meters", name),
                f'is unused: no route costs "{name}"; add {{{name}: 1}} to the cost of a route, '
                "or remove it",
            )


def _plans(file: models.FileModel) -> Iterator[Finding]:
    """Plans that no account has, if the file has accounts at all."""
    used = {account.plan for account in file.accounts}
    used |= {account.then.plan for account in file.accounts if account.then}
    if not used:
        return
    if file.anonymous:
        used.add(file.anonymous.plan)
    used |= {plan.extends for plan in file.plans.values() if plan.extends}
    for name in file.plans:
        if name not in used:
            yield (
                ("plans", name),
                "is unused: no account of this file is on this plan; remove it, or ignore this if "
                "accounts in Redis are",
            )


def _features(file: models.FileModel) -> Iterator[Finding]:
    seen = {feature for route in file.routes for feature in route.needs}
    for name, plan in file.plans.items():
        for number, feature in enumerate(plan.features or ()):
            if feature not in seen:
                seen.add(feature)
                yield (
                    ("plans", name, "features", number),
                    f'is unused: no route needs the feature "{feature}"; add it to the needs of '
                    "a route, or remove it",
                )


def _guards(file: models.FileModel) -> Iterator[Finding]:
    if any(route.request_class == "critical" for route in file.routes):
        return
    for name, plan in file.plans.items():
        if plan.critical is not None:
            yield (
                ("plans", name, "critical"),
                "never acts: no route has class: critical; add it to a route, or remove this",
            )


def _packs(file: models.FileModel, plans: list[SoldPlan], now: datetime) -> Iterator[Finding]:
    quotas = [
        (limit.meter, limit.model.id)
        for plan in plans
        for limit in plan.limits.values()
        if limit.quota and limit.model.per == "account" and not limit.shadow and plan.counts(limit)
    ]
    for name, pack in file.packs.items():
        if not any(meter == pack.meter and pack.limit in (None, limit) for meter, limit in quotas):
            yield (
                ("packs", name),
                "is unused: no quota that it adds to refuses requests; remove it",
            )
        if isinstance(pack.lasts, int) and pack.lasts <= now.timestamp() * MICRO:
            yield ("packs", name, "lasts"), "has ended: nothing can use it; write a later day"
    if file.links.packs is not None and not file.packs:
        yield ("links", "packs"), "is unused: the file has no packs; add one, or remove this"


def _teams(file: models.FileModel, plans: list[SoldPlan]) -> Iterator[Finding]:
    """Teams of accounts whose plans have no quota to share."""
    shared = {
        plan.name
        for plan in plans
        if any(limit.quota and limit.model.per == "account" for limit in plan.limits.values())
    }
    for number, account in enumerate(file.accounts):
        later = account.then.plan if account.then else account.plan
        if account.teams and not {account.plan, later} & shared:
            yield (
                ("accounts", number, "teams"),
                "never acts: the plan has no quota per account to share; add one, or remove this",
            )
