"""What a file's parts say of each other: references, repeats, arithmetic that Redis can do."""

import re
from collections.abc import Iterable, Iterator
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidecar.config import models, values
from sidecar.config.compile import lineage, split_match
from sidecar.config.positions import Path

Finding = tuple[Path, str]
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~!$&'()+,;=:@%*-]*|\{[a-z_]+\}")


def check(file: models.FileModel) -> Iterator[Finding]:
    """Every finding: where, and what is wrong; what to write instead."""
    yield from _routes(file)
    yield from _late_costs(file)
    sound = True
    for finding in _plans(file):
        sound = False
        yield finding
    if sound:
        yield from _features(file)
    yield from _accounts(file)
    if file.anonymous and file.anonymous.plan not in file.plans:
        yield ("anonymous", "plan"), _no_such("plan", file.anonymous.plan, file.plans)


def _no_such(what: str, name: str, known: Iterable[str]) -> str:
    return f'there is no {what} "{name}"; known are {", ".join(known)}'


def _routes(file: models.FileModel) -> Iterator[Finding]:
    ids: set[str] = set()
    seen: dict[str, str] = {}
    for number, route in enumerate(file.routes):
        here: Path = ("routes", number)
        if route.id in ids:
            yield (*here, "id"), f'"{route.id}" is another route\'s id; name this one differently'
        ids.add(route.id)
        wrong = _wrong_match(route.match)
        if wrong:
            yield (*here, "match"), wrong
        elif route.match in seen:
            yield (*here, "match"), f'is never reached: "{seen[route.match]}" takes it; remove one'
        seen.setdefault(route.match, route.id)
        for meter, cost in route.cost.items():
            if meter not in file.meters:
                yield (*here, "cost", meter), _no_such("meter", meter, file.meters)
            elif cost == "reserve" and file.meters[meter].reserve is None:
                yield (*here, "cost", meter), _no_reserve(meter)
        if "cost" not in route.model_fields_set and "requests" not in file.meters:
            yield here, "costs 1 of meter requests by default, which is not there; write its cost"


def _no_reserve(meter: str) -> str:
    return (
        f"meter {meter} does not say what to reserve; write a whole number, or add "
        "reserve: {json: …, default: …} to the meter"
    )


def _late_costs(file: models.FileModel) -> Iterator[Finding]:
    """Meters that say where their cost is told, on no route that would look there."""
    for name, meter in file.meters.items():
        costs = [route.cost[name] for route in file.routes if name in route.cost]
        if meter.reserve is not None and "reserve" not in costs:
            why = f"no route has the cost {{{name}: reserve}}; add it to one, or remove this"
            yield ("meters", name, "reserve"), why
        if meter.settle is not None and not costs:
            why = f"no route costs {name}; add it to a route's cost, or remove this"
            yield ("meters", name, "settle"), why


def _wrong_match(match: str) -> str | None:
    method, path = split_match(match)
    if method is not None and not _METHOD.fullmatch(method):
        return f'"{match}" does not start with a method; write it like POST /v1/items'
    segments = path.split("/")
    if segments[0] or len(segments) < 2:
        return f'"{match}" has no path; write it like POST /v1/items or /v1/**'
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        if "**" in segment and (segment != "**" or not last):
            return f'"{match}": ** stands alone at the end; write it like /v1/**'
        if not _SEGMENT.fullmatch(segment):
            return (
                f'"{match}": "{segment}" is no part of a path; use letters, digits, * or {{name}}'
            )
    return None


def _plans(file: models.FileModel) -> Iterator[Finding]:
    for name, plan in file.plans.items():
        here: Path = ("plans", name)
        if plan.extends is not None and plan.extends not in file.plans:
            yield (*here, "extends"), _no_such("plan", plan.extends, file.plans)
        elif _circular(name, file.plans):
            yield (*here, "extends"), "plans extend each other in a circle; break it"
        if plan.critical is not None:
            wrong = _inexact(plan.critical.rate, plan.critical.burst)
            if wrong:
                yield (*here, "critical"), wrong
        ids: set[str] = set()
        for number, limit in enumerate(plan.limits):
            at: Path = (*here, "limits", number)
            if limit.id in ids or limit.id == "critical":
                yield (*at, "id"), f'"{limit.id}" is taken; name this limit differently'
            ids.add(limit.id)
            if limit.meter not in file.meters:
                yield (*at, "meter"), _no_such("meter", limit.meter, file.meters)
            wrong = _inexact(limit.rate, limit.burst) if limit.rate else None
            if wrong:
                yield (*at, "rate"), wrong


def _circular(name: str, plans: dict[str, models.PlanModel]) -> bool:
    seen: set[str] = set()
    at: str | None = name
    while at is not None and at in plans:
        if at in seen:
            return True
        seen.add(at)
        at = plans[at].extends
    return False


def _inexact(rate: str, burst: int | None) -> str | None:
    units, window = values.rate(rate)
    if values.exact(burst or units, values.refill(units, window)):
        return None
    return f'"{rate}" with a burst of {burst or units:,} is too large to count exactly; lower it'


def _features(file: models.FileModel) -> Iterator[Finding]:
    sold: set[str] = set()
    for name in file.plans:
        features: tuple[str, ...] = ()
        for model in lineage(name, file.plans):
            features = features if model.features is None else model.features
        sold.update(features)
    for number, route in enumerate(file.routes):
        for place, feature in enumerate(route.needs):
            if feature not in sold:
                yield (
                    ("routes", number, "needs", place),
                    (f'no plan has the feature "{feature}"; add it to a plan'),
                )


def _accounts(file: models.FileModel) -> Iterator[Finding]:
    ids: set[str] = set()
    digests: set[str] = set()
    for number, account in enumerate(file.accounts):
        here: Path = ("accounts", number)
        if account.id in ids:
            yield (*here, "id"), f'"{account.id}" is there twice; remove one'
        ids.add(account.id)
        if account.plan not in file.plans:
            yield (*here, "plan"), _no_such("plan", account.plan, file.plans)
        try:
            ZoneInfo(account.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            yield (
                (*here, "timezone"),
                (f'"{account.timezone}" is no time zone; write one like Europe/Paris'),
            )
        names: set[str] = set()
        for place, key in enumerate(account.keys):
            if key.id in names:
                yield (
                    (*here, "keys", place, "id"),
                    f'"{key.id}" is there twice; name it differently',
                )
            names.add(key.id)
            if key.sha256 in digests:
                yield (*here, "keys", place, "sha256"), "is another key's too; make a new key"
            digests.add(key.sha256)
