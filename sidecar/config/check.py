"""What a file's parts say of each other: references, repeats, arithmetic that Redis can do."""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidecar.config import models, route_patterns, values
from sidecar.config.compile import lineage, quotas_of
from sidecar.config.draft import Draft
from sidecar.config.positions import Finding, Path
from sidecar.core.teams import MOST_TEAMS

LISTED: Final = 12  # names of what is there, where something is not


def check(file: Draft) -> Iterator[Finding]:
    """Every finding: where, and what is wrong; what to write instead."""
    yield from _routes(file)
    yield from _unreached(file)
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
        yield ("anonymous", "plan"), _no_such("plan", file.anonymous.plan, file.known["plans"])


def _no_such(what: str, name: str, known: Collection[str]) -> str:
    return f'there is no {what} "{name}"; known are {_names(known)}'


def _names(known: Collection[str]) -> str:
    first = ", ".join(islice(known, LISTED))
    return f"{first} and {len(known) - LISTED} more" if len(known) > LISTED else first or "none"


def _routes(file: Draft) -> Iterator[Finding]:
    ids: set[str] = set()
    for number, route in file.routes.items():
        here: Path = ("routes", number)
        if route.id in ids:
            yield (*here, "id"), f'"{route.id}" is another route\'s id; name this one differently'
        ids.add(route.id)
        wrong = route_patterns.wrong(route.match)
        if wrong:
            yield (*here, "match"), wrong
        for meter, cost in route.cost.items():
            if file.lacks("meters", meter):
                yield (*here, "cost", meter), _no_such("meter", meter, file.known["meters"])
            elif cost == "reserve" and meter in file.meters and not file.meters[meter].reserve:
                yield (*here, "cost", meter), _no_reserve(meter)
        if "cost" not in route.model_fields_set and file.lacks("meters", "requests"):
            yield here, "costs 1 of meter requests by default, which is not there; write its cost"


def _unreached(file: Draft) -> Iterator[Finding]:
    able = [
        (at, route) for at, route in file.routes.items() if not route_patterns.wrong(route.match)
    ]
    for which, takers in route_patterns.unreached([route.match for _, route in able]):
        at, route = able[which]
        before = [able[taker][1] for taker in takers]
        names = " and ".join(f'"{taker.id}"' for taker in before)
        take = "takes" if len(before) == 1 else "together take"
        same = len(before) == 1 and before[0].match == route.match
        remedy = "remove one" if same else "put it before, or remove it"
        yield ("routes", at, "match"), f"is never reached: {names} {take} it; {remedy}"


def _no_reserve(meter: str) -> str:
    return (
        f"meter {meter} does not say what to reserve; write a whole number, or add "
        "reserve: {json: …, default: …} to the meter"
    )


def _late_costs(file: Draft) -> Iterator[Finding]:
    """Meters that say where their cost is told, on no route that would look there."""
    for name, meter in file.meters.items():
        costs = [route.cost[name] for route in file.routes.values() if name in route.cost]
        if meter.reserve is not None and "reserve" not in costs:
            why = f"no route has the cost {{{name}: reserve}}; add it to one, or remove this"
            yield ("meters", name, "reserve"), why
        if meter.settle is not None and not costs:
            why = f"no route costs {name}; add it to a route's cost, or remove this"
            yield ("meters", name, "settle"), why


def _plans(file: Draft) -> Iterator[Finding]:
    for name, plan in file.plans.items():
        here: Path = ("plans", name)
        if plan.extends is not None and file.lacks("plans", plan.extends):
            yield (*here, "extends"), _no_such("plan", plan.extends, file.known["plans"])
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
            if limit.meter is not None and file.lacks("meters", limit.meter):
                yield (*at, "meter"), _no_such("meter", limit.meter, file.known["meters"])
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


def _features(file: Draft) -> Iterator[Finding]:
    sold: set[str] = set()
    for name in file.plans:
        features: tuple[str, ...] = ()
        for model in lineage(name, file.plans):
            features = features if model.features is None else model.features
        sold.update(features)
    for number, route in file.routes.items():
        for place, feature in enumerate(route.needs):
            if feature not in sold:
                yield (
                    ("routes", number, "needs", place),
                    (f'no plan has the feature "{feature}"; add it to a plan'),
                )


def _packs(file: Draft) -> Iterator[Finding]:
    quotas = quotas_of(file.plans.values())
    for name, pack in file.packs.items():
        here: Path = ("packs", name)
        known = quotas.get(pack.meter, {})
        if file.lacks("meters", pack.meter):
            yield (*here, "meter"), _no_such("meter", pack.meter, file.known["meters"])
        elif not known:
            yield (*here, "meter"), f"no plan has a quota on {pack.meter} per account; add one"
        elif pack.limit is not None and pack.limit not in known:
            yield (*here, "limit"), _no_such(f"quota on {pack.meter}", pack.limit, known)
        elif pack.limit is None and len(known) > 1:
            names = ", ".join(known)
            yield here, f"{pack.meter} has several quotas ({names}); add limit: and one of them"


def _accounts(file: Draft) -> Iterator[Finding]:
    """Repeats no value: a key that went to the wrong line must not go into a log."""
    ids: set[str] = set()
    digests: set[str] = set()
    for number, account in file.accounts.items():
        here: Path = ("accounts", number)
        if account.id in ids:
            yield (*here, "id"), "is another account's id too; name this one differently"
        ids.add(account.id)
        if file.lacks("plans", account.plan):
            known = _names(file.known["plans"])
            yield (*here, "plan"), f"there is no such plan; known are {known}"
        if account.then is not None and file.lacks("plans", account.then.plan):
            known = _names(file.known["plans"])
            yield (*here, "then", "plan"), f"there is no such plan; known are {known}"
        if not _is_zone(account.timezone):
            yield (*here, "timezone"), "is no time zone; write one like Europe/Paris"
        yield from _teams(here, account)
        names: set[str] = set()
        for place, key in enumerate(account.keys):
            at: Path = (*here, "keys", place)
            if key.team is not None and key.team not in account.teams:
                yield (
                    (*at, "team"),
                    "is no team of the account; add it to its teams, or remove this",
                )
            if key.id in names:
                yield (*at, "id"), "is there twice; name it differently"
            names.add(key.id)
            if key.sha256 in digests:
                yield (*at, "sha256"), "is another key's too; make a new key"
            digests.add(key.sha256)


def _teams(here: Path, account: models.AccountModel) -> Iterator[Finding]:
    at, teams = (*here, "teams"), account.teams
    if len(teams) > MOST_TEAMS:
        yield at, f"has {len(teams)} teams; write at most {MOST_TEAMS}"
    together = sum(values.share(team.share) for team in teams.values())
    if together > 100:
        yield at, f"guarantees {together}% together; lower the shares to 100% or less"


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
