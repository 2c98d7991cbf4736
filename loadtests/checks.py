"""What a load run promises, as pure functions: each returns what is wrong, in sentences.

The plan file is read here on its own, not by the product, so that a mistake in the product's
reading of it would show.
"""

import json
from calendar import monthrange
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from hashlib import sha256
from re import escape, fullmatch, split
from typing import Any
from zoneinfo import ZoneInfo

SECONDS = {"s": 1, "min": 60, "h": 3_600, "day": 86_400}
PROBLEM_FIELDS = ("type", "title", "detail", "violated-policies", "how_to_fix", "request_id")


@dataclass(frozen=True)
class Rate:
    """A token bucket, as the plan file says it."""

    id: str
    meter: str
    per_second: Fraction
    burst: int

    def allows(self, seconds: float, _ended: datetime) -> int:
        """The most units that may be admitted within any span of this length."""
        return self.burst + int(self.per_second * Fraction(seconds)) + 1


@dataclass(frozen=True)
class Quota:
    """Units per calendar period of an account, as the plan file says it."""

    id: str
    meter: str
    cap: int
    period: str  # hour, day, week, month or cycle
    zone: str
    anchor: int  # day of the month on which cycles start

    def allows(self, seconds: float, ended: datetime) -> int:
        """The most units that may be admitted in a run: as often as it saw a period begin."""
        moments = (ended - timedelta(seconds=ago) for ago in range(int(seconds) + 2))
        return self.cap * len({self._period(moment) for moment in moments})

    def _period(self, moment: datetime) -> tuple[int, ...]:
        """The same for all moments of a period, and for no other."""
        local = moment.astimezone(ZoneInfo(self.zone))
        if self.period == "hour":
            return local.year, local.month, local.day, local.hour
        if self.period == "day":
            return local.year, local.month, local.day
        if self.period == "week":
            return local.isocalendar()[:2]
        first = 1
        if self.period == "cycle":
            first = min(self.anchor, monthrange(local.year, local.month)[1])
        return (12 * local.year + local.month - (local.day < first),)


def rate_of(limit: Mapping[str, Any]) -> Rate | None:
    """The rate that a limit of the plan file is, None if it is of another kind."""
    if "rate" not in limit:
        return None
    units, _, window = str(limit["rate"]).partition("/")
    per_second = Fraction(int(units.replace("_", "")), SECONDS[window.strip()])
    burst = int(str(limit.get("burst", units)).replace("_", ""))
    return Rate(str(limit["id"]), str(limit["meter"]), per_second, burst)


def quota_of(limit: Mapping[str, Any], account: Mapping[str, Any]) -> Quota | None:
    """The quota that a limit of the plan file is, None if it is of another kind or has no end."""
    if "quota" not in limit:
        return None
    units, _, period = str(limit["quota"]).partition("/")
    at = {what: int(str(percent).rstrip("%")) for percent, what in limit.get("at", {}).items()}
    if "overage" in at and "reject" not in at:
        return None
    cap = int(units.replace("_", "")) * at.get("reject", 100) // 100
    anchor = int(str(account.get("anchor", "2026-01-01"))[-2:])
    zone = str(account.get("timezone", "UTC"))
    return Quota(str(limit["id"]), str(limit["meter"]), cap, period, zone, anchor)


def limits_of(plans: Mapping[str, Any], plan_id: str) -> dict[str, Mapping[str, Any]]:
    """A plan's limits by id, with those that it extends."""
    plan = plans[plan_id]
    inherited = limits_of(plans, plan["extends"]) if "extends" in plan else {}
    return inherited | {limit["id"]: limit for limit in plan.get("limits", ())}


def bounds_of_key(document: Mapping[str, Any], secret: str) -> list[Rate | Quota]:
    """The rates and quotas of a key of the plan file. Raises LookupError."""
    digest = sha256(secret.encode()).hexdigest()
    for account in document["accounts"]:
        if any(key["sha256"] == digest for key in account.get("keys", ())):
            limits = limits_of(document["plans"], account["plan"]).values()
            found = [rate_of(limit) or quota_of(limit, account) for limit in limits]
            return [bound for bound in found if bound is not None]
    raise LookupError(f"the plan file has no key {secret!r}")


def costs_of(document: Mapping[str, Any], method: str, path: str) -> Counter[str]:
    """Units per meter of a call, as far as the plan file tells them, by the first route that
    matches. Raises LookupError."""
    for route in document["routes"]:
        wanted, _, pattern = str(route["match"]).rpartition(" ")
        if wanted in ("", method) and fullmatch(_expression(pattern), path):
            costs = route.get("cost", {"requests": 1})
            return Counter({meter: units for meter, units in costs.items() if units != "reserve"})
    raise LookupError(f"the plan file has no route for {method} {path}")


def _expression(pattern: str) -> str:
    """`**` is any rest of a path, `*` and `{name}` one segment, all else itself."""
    words = {"**": ".*", "*": "[^/]+"}
    parts = split(r"(\*\*|\*|\{[^}]*\})", pattern)
    return "".join(words.get(p, "[^/]+" if p.startswith("{") else escape(p)) for p in parts)


def unexplained(headers: Mapping[str, str], body: bytes) -> list[str]:
    """What a 429 lacks of an explanation."""
    wrong = []
    if headers.get("Content-Type", "").split(";")[0] != "application/problem+json":
        wrong.append("a 429 is not application/problem+json")
    retry = headers.get("Retry-After", "")
    if not retry.isdigit() or int(retry) < 1:
        wrong.append(f"a 429 has Retry-After {retry!r} and not whole seconds from 1")
    wrong += [f"a 429 has no {n}" for n in ("RateLimit", "RateLimit-Policy") if not headers.get(n)]
    try:
        problem = json.loads(body)
    except ValueError:
        return [*wrong, "the body of a 429 is not JSON"]
    if not isinstance(problem, dict):
        return [*wrong, "the body of a 429 is not an object"]
    return wrong + [f"a 429 has no {name!r}" for name in PROBLEM_FIELDS if not problem.get(name)]


@dataclass
class Customer:
    """What one account was seen to get, over a whole run."""

    name: str
    bounds: list[Rate | Quota]
    admitted: Counter[str] = field(
        default_factory=Counter
    )  # per meter, of calls that may be refused
    refused: int = 0
    deferred: int = 0
    critical: int = 0

    def over(self, seconds: float, ended: datetime) -> list[str]:
        """Which limits were exceeded in a run that took this long and ended then."""
        return [
            f"{self.name} was admitted {self.admitted[bound.meter]} {bound.meter} in "
            f"{seconds:.1f} s; {bound.id} allows {most}"
            for bound in self.bounds
            if self.admitted[bound.meter] > (most := bound.allows(seconds, ended))
        ]


@dataclass
class Verdict:
    """Broken promises of a run, each kind counted, so that a broken run prints a few lines."""

    broken: dict[str, int] = field(default_factory=dict)

    def add(self, *sentences: str) -> None:
        """Count these."""
        for sentence in sentences:
            self.broken[sentence] = self.broken.get(sentence, 0) + 1

    def lines(self) -> list[str]:
        """One line per kind, most frequent first."""
        ordered = sorted(self.broken.items(), key=lambda item: -item[1])
        return [f"{count} × {sentence}" for sentence, count in ordered]
