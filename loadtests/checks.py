"""The guarantees of a load run, as pure functions that return violations as sentences.

This module reads the plan file without the product's code, so that a mistake of the product in
reading it shows.
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
    """A token bucket of the plan file."""

    id: str
    meter: str
    per_second: Fraction
    burst: int

    def allows(self, seconds: float, _ended: datetime) -> int:
        """The most units that any span of this length allows."""
        return self.burst + int(self.per_second * Fraction(seconds)) + 1


@dataclass(frozen=True)
class Quota:
    """A quota of the plan file: units per period of an account."""

    id: str
    meter: str
    cap: int
    period: str  # hour, day, week, month or cycle
    zone: str
    anchor: int  # day of the month on which cycles start

    def allows(self, seconds: float, ended: datetime) -> int:
        """The most units that a run allows: the cap for each period that it touched."""
        moments = (ended - timedelta(seconds=ago) for ago in range(int(seconds) + 2))
        return self.cap * len({self._period(moment) for moment in moments})

    def _period(self, moment: datetime) -> tuple[int, ...]:
        """A value that is equal for all moments of a period and differs between periods."""
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
    """The rate of a limit of the plan file, or None if it is not a rate."""
    if "rate" not in limit:
        return None
    units, _, window = str(limit["rate"]).partition("/")
    per_second = Fraction(int(units.replace("_", "")), SECONDS[window.strip()])
    burst = int(str(limit.get("burst", units)).replace("_", ""))
    return Rate(str(limit["id"]), str(limit["meter"]), per_second, burst)


def quota_of(limit: Mapping[str, Any], account: Mapping[str, Any]) -> Quota | None:
    """The quota of a limit of the plan file.

    None if it is not a quota, or allows overage without a limit.
    """
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
    """A plan's limits by id, including those of the plans that it extends."""
    plan = plans[plan_id]
    inherited = limits_of(plans, plan["extends"]) if "extends" in plan else {}
    return inherited | {limit["id"]: limit for limit in plan.get("limits", ())}


def bounds_of_key(document: Mapping[str, Any], secret: str) -> list[Rate | Quota]:
    """The rates and quotas of an API key of the plan file. Raises LookupError."""
    digest = sha256(secret.encode()).hexdigest()
    for account in document["accounts"]:
        if any(key["sha256"] == digest for key in account.get("keys", ())):
            limits = limits_of(document["plans"], account["plan"]).values()
            bounds = [rate_of(limit) or quota_of(limit, account) for limit in limits]
            return [bound for bound in bounds if bound is not None]
    raise LookupError(f"the plan file has no key {secret!r}")


def costs_of(document: Mapping[str, Any], method: str, path: str) -> Counter[str]:
    """Units per meter of a request, by the first route that matches.

    Estimated costs are left out. Raises LookupError.
    """
    for route in document["routes"]:
        wanted, _, pattern = str(route["match"]).rpartition(" ")
        if wanted in ("", method) and fullmatch(_expression(pattern), path):
            costs = route.get("cost", {"requests": 1})
            return Counter({meter: units for meter, units in costs.items() if units != "reserve"})
    raise LookupError(f"the plan file has no route for {method} {path}")


def _expression(pattern: str) -> str:
    """The pattern as a regular expression.

    `**` is any rest of a path, `*` and `{name}` are one segment, the rest is literal.
    """
    words = {"**": ".*", "*": "[^/]+"}
    parts = split(r"(\*\*|\*|\{[^}]*\})", pattern)
    return "".join(words.get(p, "[^/]+" if p.startswith("{") else escape(p)) for p in parts)


def missing_explanation(headers: Mapping[str, str], body: bytes) -> list[str]:
    """What a 429 lacks, as sentences."""
    violations = []
    if headers.get("Content-Type", "").split(";")[0] != "application/problem+json":
        violations.append("a 429 is not application/problem+json")
    retry = headers.get("Retry-After", "")
    if not retry.isdigit() or int(retry) < 1:
        violations.append(
            f"a 429 has Retry-After {retry!r} which is not a positive number of seconds"
        )
    violations += [
        f"a 429 has no {n}" for n in ("RateLimit", "RateLimit-Policy") if not headers.get(n)
    ]
    try:
        problem = json.loads(body)
    except ValueError:
        return [*violations, "the body of a 429 is not JSON"]
    if not isinstance(problem, dict):
        return [*violations, "the body of a 429 is not an object"]
    return violations + [
        f"a 429 has no {name!r}" for name in PROBLEM_FIELDS if not problem.get(name)
    ]


@dataclass
class Customer:
    """What one account got, over a whole run."""

    name: str
    bounds: list[Rate | Quota]
    # Units per meter, of requests that are not critical.
    admitted: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    deferred: int = 0
    critical: int = 0

    def exceeded(self, seconds: float, ended: datetime) -> list[str]:
        """The limits that were exceeded in a run of this length that ended then."""
        return [
            f"{self.name} was admitted {self.admitted[bound.meter]} {bound.meter} in "
            f"{seconds:.1f} s; {bound.id} allows {most}"
            for bound in self.bounds
            if self.admitted[bound.meter] > (most := bound.allows(seconds, ended))
        ]


@dataclass
class Verdict:
    """Violations of a run, counted by kind, so that a broken run prints few lines."""

    broken: dict[str, int] = field(default_factory=dict)

    def add(self, *sentences: str) -> None:
        """Count these violations."""
        for sentence in sentences:
            self.broken[sentence] = self.broken.get(sentence, 0) + 1

    def lines(self) -> list[str]:
        """One line per kind, the most frequent first."""
        ordered = sorted(self.broken.items(), key=lambda item: -item[1])
        return [f"{count} × {sentence}" for sentence, count in ordered]
