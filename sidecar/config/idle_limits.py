"""Limits of a valid plan file that refuse nothing, or that refuse every request of a route."""

from collections.abc import Iterable, Iterator
from typing import Final

from sidecar.config import limit_kinds, models
from sidecar.config.positions import Finding, Path
from sidecar.config.sold_plans import SoldLimit, SoldPlan
from sidecar.core.kinds import MICRO
from sidecar.core.periods import PERIODS
from sidecar.core.text import amount

MOST_ROUTES: Final = 3  # that one warning names


def findings(file: models.FileModel, plans: Iterable[SoldPlan]) -> Iterator[Finding]:
    """Each limit that never acts, in any plan that has it; and each one that some route exceeds."""
    idle: dict[Path, Finding] = {}
    acting: set[Path] = set()
    exceeded: dict[Path, Finding] = {}
    for plan in plans:
        for limit in plan.limits.values():
            finding = _idle(file, plan, limit)
            if finding is None:
                acting.add(limit.path)
            else:
                idle.setdefault(limit.path, finding)
            for one in _exceeded(file, plan, limit):
                exceeded.setdefault(limit.path, one)
    yield from (finding for path, finding in idle.items() if path not in acting)
    yield from exceeded.values()
    yield from _notices(file)


def _idle(file: models.FileModel, plan: SoldPlan, limit: SoldLimit) -> Finding | None:
    """Why a limit never acts in a plan; what to do."""
    if not plan.counts(limit):
        if limit.meter is None:
            return limit.path, "never acts: no route of the plan has a cost; remove it"
        return (*limit.path, "meter"), (
            f'never acts: no route of the plan costs "{limit.meter}"; '
            f"add {{{limit.meter}: 1}} to the cost of a route, or remove this limit"
        )
    for other in plan.limits.values():
        if other.path != limit.path and _comparable(other, limit):
            reason = _outdone(file, plan, other, limit)
            if reason:
                but = "; lower it, or remove it"
                if limit.meter in plan.forced:
                    but = ", except after requests of critical routes" + but
                return limit.path, f"never acts: {reason}{but}"
    return None


def _comparable(other: SoldLimit, limit: SoldLimit) -> bool:
    """Whether every request that counts against `limit` counts against `other`, and may fail."""
    wider = other.model.per == "account" or limit.model.per == "key"
    return wider and other.meter == limit.meter and (limit.shadow or not other.shadow)


def _outdone(
    file: models.FileModel, plan: SoldPlan, other: SoldLimit, limit: SoldLimit
) -> str | None:
    """Why `other` always refuses before `limit` does."""
    if other.model.concurrency is not None and limit.model.concurrency is not None:
        return _lower(other, limit, other.model.concurrency, limit.model.concurrency)
    if other.rate and limit.rate:
        (units, window, burst), (more, longer, larger) = other.rate, limit.rate
        if units * longer > more * window or burst > larger:
            return None
        return _lower(other, limit, units * longer + burst, more * window + larger)
    late = limit.meter is not None and file.meters[limit.meter].settle is not None
    if late or _has_packs(file, other) or _has_teams(file, plan):
        return None
    unit = file.meters[limit.meter].unit if limit.meter else ""
    if limit.quota is not None:
        return _below_quota(other, limit, *limit.quota, unit)
    return _below_burst(other, limit, unit)


def _lower(other: SoldLimit, limit: SoldLimit, first: float, second: float) -> str | None:
    """Whether the first of two numbers is lower; of two alike, the later limit is the idle one."""
    same_scope = other.model.per == limit.model.per
    earlier = same_scope and other.path < limit.path
    if first < second or (first == second and earlier):
        scope = "" if same_scope else " for the whole account"
        return f'"{other.model.id}" allows less{scope}'
    return None


def _below_quota(
    other: SoldLimit, limit: SoldLimit, units: int, period: str, unit: str
) -> str | None:
    notices, _ = limit_kinds.thresholds(limit.model.at)
    acts_at = -(-units * min((*notices, 100)) // 100)
    most = other.most_in(period)
    if most is None or most >= acts_at:
        return None
    named = period if period in PERIODS else f"{int(period[:-1])} seconds"
    return f'"{other.model.id}" allows at most {amount(most, unit)} per {named}'


def _below_burst(other: SoldLimit, limit: SoldLimit, unit: str) -> str | None:
    """Whether a quota is used up before a rate's bucket can be empty."""
    most = None if limit.rate is None or other.quota is None else other.most_in(other.quota[1])
    if most is None or limit.rate is None or other.quota is None:
        return None
    units, window_us, burst = limit.rate
    refilled = units * _shortest_s(other.quota[1]) * MICRO // window_us
    if burst < 2 * most or refilled < most:  # two periods meet: both quotas at once
        return None
    return f'"{other.model.id}" allows at most {amount(most, unit)} per period'


def _shortest_s(period: str) -> int:
    """A lower bound of a period's length, in seconds."""
    return PERIODS[period].usual_s * 9 // 10 if period in PERIODS else int(period[:-1])


def _has_packs(file: models.FileModel, limit: SoldLimit) -> bool:
    return limit.quota is not None and any(
        pack.meter == limit.meter and pack.limit in (None, limit.model.id)
        for pack in file.packs.values()
    )


def _has_teams(file: models.FileModel, plan: SoldPlan) -> bool:
    return any(account.plan == plan.name and account.teams for account in file.accounts)


def _exceeded(file: models.FileModel, plan: SoldPlan, limit: SoldLimit) -> Iterator[Finding]:
    """A limit that never allows some route of the plan."""
    if limit.shadow or limit.meter is None or _has_packs(file, limit):
        return
    most = limit.rate[2] if limit.rate else limit.cap
    if most >= plan.dearest.get(limit.meter, 0):
        return
    dear = [one for one in plan.costs.get(limit.meter, ()) if one[0] > most]
    units, _ = max(dear)
    unit = file.meters[limit.meter].unit
    names = ", ".join(f'"{route}"' for _, route in dear[:MOST_ROUTES])
    more = f" and {len(dear) - MOST_ROUTES} more" if len(dear) > MOST_ROUTES else ""
    few = len(dear) == 1
    which = f"route {names}, which costs" if few else f"routes {names}{more}, which cost up to"
    part = "quota" if limit.quota else "burst" if limit.model.burst else "rate"
    size = "a burst" if limit.rate else "a quota"
    yield (
        (*limit.path, part),
        (
            f"never allows {which} {amount(units, unit)}: "
            f"{size} of {most:,} is less; write at least {units}, or lower the cost"
        ),
    )


def _notices(file: models.FileModel) -> Iterator[Finding]:
    """Notices at a percentage that is never reached, because requests are refused before."""
    for name, plan in file.plans.items():
        for number, limit in enumerate(plan.limits):
            notices, reject = limit_kinds.thresholds(limit.at)
            for percent in notices if reject is not None else ():
                if reject is not None and percent > reject:
                    finding = f"never happens: requests are refused at {reject}%; remove it"
                    at: Path = ("plans", name, "limits", number, "at", f"{percent}%")
                    yield at, finding
