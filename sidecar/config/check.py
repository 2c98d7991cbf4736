"""Checks across the parts of a plan file: references, duplicates, and whether Redis can count."""

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidecar.config import models, route_patterns, values
from sidecar.config.compile import quotas_of
from sidecar.config.draft import Draft
from sidecar.config.positions import Finding, Path
from sidecar.core.counting.teams import MOST_TEAMS

MOST_NAMES: Final = 12  # known names that a finding about an unknown name lists


def check(file: Draft) -> Iterator[Finding]:
    """Every finding: path, and what is wrong; what to write instead."""
    errors = {at: route_patterns.error(route.match) for at, route in file.routes.items()}
    yield from _routes(file, errors)
    yield from _unreached(file, errors)
    if "routes" in file.complete:
        yield from _late_costs(file)
    sound = "plans" in file.complete
    for finding in _plans(file):
        sound = False
        yield finding
    if sound:
        yield from _features(file)
        yield from _packs(file)
    yield from _accounts(file)
    if file.anonymous and file.lacks("plans", file.anonymous.plan):
        yield ("anonymous", "plan"), _unknown("plan", file.anonymous.plan, file.known["plans"])


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    return f'{kind} "{name}" does not exist; write one of: {_names(known)}'


def _names(known: Collection[str]) -> str:
    first = ", ".join(islice(known, MOST_NAMES))
    more = len(known) - MOST_NAMES
    return f"{first} and {more} more" if more > 0 else first or "none"


def _routes(file: Draft, errors: Mapping[int, str | None]) -> Iterator[Finding]:
    ids: set[str] = set()
    for number, route in file.routes.items():
        path: Path = ("routes", number)
        if route.id in ids:
            yield (*path, "id"), f'"{route.id}" is the id of another route; write another id'
        ids.add(route.id)
        error = errors[number]
        if error:
            yield (*path, "match"), error
        for meter, cost in route.cost.items():
            if file.lacks("meters", meter):
                yield (*path, "cost", meter), _unknown("meter", meter, file.known["meters"])
            elif cost == "reserve" and meter in file.meters and not file.meters[meter].reserve:
                yield (*path, "cost", meter), _no_reserve(meter)
        if route.ask_usage and not any(_reads_json(file, meter) for meter in route.cost):
            yield (*path, "ask_usage"), _NO_USAGE
        if "cost" not in route.model_fields_set and file.lacks("meters", "requests"):
            yield (
                path,
                'costs 1 of meter "requests" by default, which does not exist; add cost: {…}',
            )


_NO_USAGE: Final = (
    "has no effect: no meter of the route reads its cost from JSON; "
    "add settle: {json: …} to the meter, or remove this"
)


def _reads_json(file: Draft, meter: str) -> bool:
    """Whether the meter reads its cost from JSON, or is not known."""
    known = file.meters.get(meter)
    return known is None or (known.settle is not None and known.settle.path is not None)


def _unreached(file: Draft, errors: Mapping[int, str | None]) -> Iterator[Finding]:
    valid = [(at, route) for at, route in file.routes.items() if not errors[at]]
    for index, covering in route_patterns.unreached([route.match for _, route in valid]):
        at, route = valid[index]
        earlier = [valid[other][1] for other in covering]
        names = " and ".join(f'"{other.id}"' for other in earlier)
        match = "matches" if len(earlier) == 1 else "together match"
        same = len(earlier) == 1 and earlier[0].match == route.match
        remedy = "remove one" if same else "put it before, or remove it"
        finding = f"is never reached: {names} {match} all of its requests; {remedy}"
        yield ("routes", at, "match"), finding


def _no_reserve(meter: str) -> str:
    return (
        f'meter "{meter}" has no reserve; write a whole number, or add '
        "reserve: {json: …, default: …} to the meter"
    )


def _late_costs(file: Draft) -> Iterator[Finding]:
    """Meters with `reserve` or `settle` that no route uses."""
    used: dict[str, list[int | str]] = {}
    for route in file.routes.values():
        for name, cost in route.cost.items():
            used.setdefault(name, []).append(cost)
    for name, meter in file.meters.items():
        costs = used.get(name, [])
        if meter.reserve is not None and "reserve" not in costs:
            unused = f"no route has the cost {{{name}: reserve}}; add it to a route, or remove this"
            yield ("meters", name, "reserve"), unused
        if meter.settle is not None and not costs:
            unused = f'no route costs "{name}"; add it to the cost of a route, or remove this'
            yield ("meters", name, "settle"), unused


def _plans(file: Draft) -> Iterator[Finding]:
    circular = _circular(file.plans)
    meters: dict[tuple[str, str], tuple[str, str]] = {}  # kind and id of a limit: meter, plan
    for name, plan in file.plans.items():
        path: Path = ("plans", name)
        if plan.extends is not None and file.lacks("plans", plan.extends):
            yield (*path, "extends"), _unknown("plan", plan.extends, file.known["plans"])
        elif name in circular:
            yield (*path, "extends"), "plans extend each other in a circle; remove one extends"
        if plan.critical is not None:
            error = _inexact(plan.critical.rate, plan.critical.burst)
            if error:
                yield (*path, "critical"), error
        ids: set[str] = set()
        for number, limit in enumerate(plan.limits):
            at: Path = (*path, "limits", number)
            if limit.id in ids or limit.id == "critical":
                yield (*at, "id"), f'"{limit.id}" is in use already; write another id'
            ids.add(limit.id)
            if limit.meter is not None and file.lacks("meters", limit.meter):
                yield (*at, "meter"), _unknown("meter", limit.meter, file.known["meters"])
            elif limit.meter is not None and limit.concurrency is None:
                counted, other = meters.setdefault(_counter(limit), (limit.meter, name))
                if counted != limit.meter:
                    yield (*at, "meter"), _two_meters(limit, counted, other)
            error = _inexact(limit.rate, limit.burst) if limit.rate else None
            if error:
                yield (*at, "rate"), error


def _counter(limit: models.LimitModel) -> tuple[str, str]:
    """The kind and id by which all plans share a limit's counter."""
    return ("rate" if limit.rate is not None else "quota"), limit.id


def _two_meters(limit: models.LimitModel, counted: str, plan: str) -> str:
    return (
        f'"{limit.id}" counts "{counted}" in plan "{plan}", and usage stays with the id when an '
        "account moves; write the same meter, or another id"
    )


def _circular(plans: dict[str, models.PlanModel]) -> set[str]:
    """The plans that extend each other in a circle, directly or not; each is read once."""
    circular: set[str] = set()
    done: set[str] = set()
    for name in plans:
        chain: dict[str, None] = {}
        at: str | None = name
        while at is not None and at in plans and at not in done and at not in chain:
            chain[at] = None
            at = plans[at].extends
        if at in chain or at in circular:
            circular.update(chain)
        done.update(chain)
    return circular


def _inexact(rate: str, burst: int | None) -> str | None:
    units, window = values.rate(rate)
    if values.exact(burst or units, values.refill(units, window)):
        return None
    return (
        f'"{rate}" with a burst of {burst or units:,} is too large to count exactly; '
        "lower the rate or the burst"
    )


def _features(file: Draft) -> Iterator[Finding]:
    sold: set[str] = set()
    for plan in file.plans.values():
        sold.update(plan.features or ())  # a plan without its own has those of the one it extends
    for number, route in file.routes.items():
        for index, feature in enumerate(route.needs):
            if feature not in sold:
                finding = f'no plan has the feature "{feature}"; add it to the features of a plan'
                yield ("routes", number, "needs", index), finding


def _packs(file: Draft) -> Iterator[Finding]:
    quotas = quotas_of(file.plans.values())
    for name, pack in file.packs.items():
        path: Path = ("packs", name)
        known = quotas.get(pack.meter, {})
        if file.lacks("meters", pack.meter):
            yield (*path, "meter"), _unknown("meter", pack.meter, file.known["meters"])
        elif not known:
            finding = f'no plan has a quota per account on "{pack.meter}"; add one to a plan'
            yield (*path, "meter"), finding
        elif pack.limit is not None and pack.limit not in known:
            yield (*path, "limit"), _unknown(f"{pack.meter} quota", pack.limit, known)
        elif pack.limit is None and len(known) > 1:
            names = ", ".join(known)
            yield path, f'"{pack.meter}" has several quotas; add limit: with one of: {names}'


def _accounts(file: Draft) -> Iterator[Finding]:
    """Findings that repeat no value: an API key on the wrong line must not reach a log."""
    ids: set[str] = set()
    digests: set[str] = set()
    for number, account in file.accounts.items():
        path: Path = ("accounts", number)
        if account.id in ids:
            yield (*path, "id"), "is the id of another account; write another id"
        ids.add(account.id)
        if file.lacks("plans", account.plan):
            yield (*path, "plan"), _unknown_plan(file)
        if account.then is not None and file.lacks("plans", account.then.plan):
            yield (*path, "then", "plan"), _unknown_plan(file)
        if not _is_zone(account.timezone):
            finding = "is not a time zone; write an IANA name such as Europe/Paris"
            yield (*path, "timezone"), finding
        yield from _teams(path, account)
        names: set[str] = set()
        for index, key in enumerate(account.keys):
            at: Path = (*path, "keys", index)
            if key.team is not None and key.team not in account.teams:
                finding = "is not a team of this account; add it to its teams, or remove this"
                yield (*at, "team"), finding
            if key.id in names:
                yield (*at, "id"), "is the id of another key of this account; write another id"
            names.add(key.id)
            if key.sha256 in digests:
                yield (*at, "sha256"), "is the SHA-256 of another key; create a new key"
            digests.add(key.sha256)


def _unknown_plan(file: Draft) -> str:
    return f"is not a plan of this file; write one of: {_names(file.known['plans'])}"


def _teams(path: Path, account: models.AccountModel) -> Iterator[Finding]:
    at, teams = (*path, "teams"), account.teams
    if len(teams) > MOST_TEAMS:
        yield at, f"has {len(teams)} teams; write at most {MOST_TEAMS}"
    total = sum(values.share(team.share) for team in teams.values())
    if total > 100:
        yield at, f"guarantees {total}% in total; lower the shares to 100% or less"


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
