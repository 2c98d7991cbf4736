"""Clients, their accounts on plans with real limits, and the variants of the plan file."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import yaml

from loadtests.checks import limits_of

# Costs are fixed: a cost in an answer would correct the event, not the counter.
_PLANS: Final = """
version: 1
meters:
  requests: {{unit: request}}
  uploads: {{unit: upload}}
routes:
  - {{id: status, match: "GET /status", class: critical, cost: {{}}}}
  - {{id: login, match: "POST /login", class: critical}}
  - {{id: echo, match: "POST /echo", cost: {{requests: 1, uploads: 1}}}}
  - {{id: large, match: "GET /large", cost: {{requests: 5}}}}
  - {{id: rest, match: "/**"}}
plans:
  tight:
    when_store_is_down: deny
    limits:
      - {{id: per-second, meter: requests, rate: {rate}/s, burst: 10}}
      - {{id: hourly, meter: requests, quota: {quota}/hour, at: {{50%: notice, 100%: reject}}}}
  steady:
    when_store_is_down: deny
    limits:
      - {{id: per-second, meter: requests, rate: 5000/s, burst: 20000}}
      - {{id: monthly, meter: requests, quota: 100_000_000/month}}
      - {{id: uploads, meter: uploads, quota: 10_000_000/day}}
      - {{id: per-key, meter: requests, quota: 50_000_000/week, per: key}}
  overdrawn:
    when_store_is_down: deny
    limits:
      - {{id: cycle, meter: requests, quota: 100/cycle, at: {{80%: notice, 100%: overage}}}}
  open:
    extends: steady
    when_store_is_down: allow
accounts:
"""
_ACCOUNT: Final = """
  - id: {account}
    plan: {plan}
    anchor: 2026-01-31
    timezone: America/New_York
    keys: [{keys}]
"""
VARIANTS: Final = ({"rate": 5, "quota": 40}, {"rate": 7, "quota": 60})
INVALID_FILE: Final = _PLANS.format(rate=5, quota="many")
MOST_UNITS: Final = 5  # of any meter, the cost of one request


@dataclass(frozen=True, slots=True)
class Client:
    """A program of a customer: its account, and the API key that it sends."""

    account: str
    plan: str
    key: str

    @property
    def key_id(self) -> str:
        """The API key's id in the plan file."""
        return self.key.rpartition("-")[2]


TINA: Final = Client("tina", "tight", "tina-k1")
BEA: Final = Client("bea", "steady", "bea-k1")
BEA_SECOND_KEY: Final = Client("bea", "steady", "bea-k2")
OLGA: Final = Client("olga", "overdrawn", "olga-k1")
CARLA: Final = Client("carla", "steady", "carla-k1")  # sends critical requests only
OPAL: Final = Client("opal", "open", "opal-k1")
CLIENTS: Final = (TINA, BEA, BEA_SECOND_KEY, OLGA, CARLA, OPAL)


def plan_file(variant: int = 0) -> str:
    """A valid plan file; the variants differ in the limits of one plan."""
    accounts = {client.account: client.plan for client in CLIENTS}
    text = _PLANS.format(**VARIANTS[variant % len(VARIANTS)])
    for account, plan in accounts.items():
        keys = ", ".join(
            f"{{id: {one.key_id}, sha256: {sha256(one.key.encode()).hexdigest()}}}"
            for one in CLIENTS
            if one.account == account
        )
        text += _ACCOUNT.format(account=account, plan=plan, keys=keys)
    return text


class Quota(NamedTuple):
    """One counter: a quota of an account, or of one of its API keys.

    `key` is the id of the API key, None for an account.
    """

    account: str
    limit: str
    meter: str
    key: str | None

    def __str__(self) -> str:
        owner = f"{self.account}/{self.key}" if self.key else self.account
        return f"{owner} {self.limit}"


def quotas_of(document: Mapping[str, Any]) -> list[Quota]:
    """All counters of the accounts in a plan file, read from the file itself."""
    quotas = []
    for account in document["accounts"]:
        for limit in limits_of(document["plans"], account["plan"]).values():
            if "quota" not in limit:
                continue
            keys = [key["id"] for key in account["keys"]] if limit.get("per") == "key" else [None]
            quotas += [Quota(account["id"], limit["id"], limit["meter"], key) for key in keys]
    return quotas


def open_plans(document: Mapping[str, Any]) -> set[str]:
    """Plans whose requests are allowed while Redis is unavailable."""
    return {
        name
        for name, plan in document["plans"].items()
        if plan.get("when_store_is_down") == "allow"
    }


def document() -> dict[str, Any]:
    """The plan file as YAML, read without the product's code."""
    plans: dict[str, Any] = yaml.safe_load(plan_file())
    return plans
