"""What a load run promises, as pure functions: each returns what is wrong, in sentences.

The plan file is read here on its own, not by the product, so that a mistake in the product's
reading of it would show.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from re import escape, fullmatch, split
from typing import Any

SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
PROBLEM_FIELDS = ("type", "title", "detail", "violated-policies", "how_to_fix", "request_id")


@dataclass(frozen=True)
class Rate:
    """A token bucket, as the plan file says it."""

    id: str
    meter: str
    per_second: Fraction
    burst: int

    def allows(self, seconds: float) -> int:
        """The most units that may be admitted within any span of this length."""
        return self.burst + int(self.per_second * Fraction(seconds)) + 1


def rate_of(limit: Mapping[str, Any]) -> Rate | None:
    """The rate that a limit of the plan file is, None if it is of another kind."""
    if "rate" not in limit:
        return None
    units, _, window = str(limit["rate"]).partition("/")
    per_second = Fraction(int(units.replace("_", "")), SECONDS[window.strip()])
    burst = int(str(limit.get("burst", -(-per_second.numerator // per_second.denominator))))
    return Rate(str(limit["id"]), str(limit["meter"]), per_second, burst)


def limits_of(plans: Mapping[str, Any], plan_id: str) -> dict[str, Mapping[str, Any]]:
    """A plan's limits by id, with those that it extends."""
    plan = plans[plan_id]
    inherited = limits_of(plans, plan["extends"]) if "extends" in plan else {}
    return inherited | {limit["id"]: limit for limit in plan.get("limits", ())}


def rates_of_key(document: Mapping[str, Any], secret: str) -> list[Rate]:
    """The rates on requests that apply to a key of the plan file. Raises LookupError."""
    digest = sha256(secret.encode()).hexdigest()
    for account in document["accounts"]:
        if any(key["sha256"] == digest for key in account.get("keys", ())):
            limits = limits_of(document["plans"], account["plan"]).values()
            rates = [rate for limit in limits if (rate := rate_of(limit))]
            return [rate for rate in rates if rate.meter == "requests"]
    raise LookupError(f"the plan file has no key {secret!r}")


def cost_of(document: Mapping[str, Any], method: str, path: str) -> int:
    """Requests that a call costs by the first route that matches. Raises LookupError."""
    for route in document["routes"]:
        wanted, _, pattern = str(route["match"]).rpartition(" ")
        if wanted in ("", method) and fullmatch(_expression(pattern), path):
            return int(route.get("cost", {"requests": 1}).get("requests", 0))
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
    rates: list[Rate]
    admitted: int = 0  # units of calls that may be refused
    refused: int = 0
    critical: int = 0

    def over(self, seconds: float) -> list[str]:
        """Which limits were exceeded in a run that took this long."""
        return [
            f"{self.name} was admitted {self.admitted} requests in {seconds:.1f} s; "
            f"{rate.id} allows {rate.allows(seconds)}"
            for rate in self.rates
            if self.admitted > rate.allows(seconds)
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
