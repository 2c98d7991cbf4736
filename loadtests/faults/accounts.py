"""Who calls: one account for each promise that a fault could break, and the plan file."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sidecar.stores import keys
from sidecar.stores.connection.slots import SLOTS, slot_of

QUOTA: Final = 600
RATE, BURST = 40, 20  # calls per second, calls
SLOTS_OF_ONE: Final = 4
PREFIX: Final = "qs"
_FIRST_SHARD: Final = SLOTS // 3

_PLANS: Final = f"""
version: 1
meters:
  requests: {{unit: request}}
  tokens: {{unit: token, reserve: {{header: X-Cost, default: 10}}, settle: {{header: X-Cost}}}}
routes:
  - {{id: login, match: "POST /login", class: critical}}
  - {{id: late, match: "/late", cost: {{requests: 1, tokens: reserve}}}}
  - {{id: rest, match: "/**"}}
plans:
  counted:
    limits: [{{id: monthly, meter: requests, quota: {QUOTA}/month}}]
  paced:
    limits:
      - {{id: per-second, meter: requests, rate: {RATE}/s, burst: {BURST}}}
      - {{id: monthly, meter: requests, quota: 100_000_000/month}}
  narrow:
    limits:
      - {{id: in-flight, concurrency: {SLOTS_OF_ONE}}}
      - {{id: monthly, meter: requests, quota: 100_000_000/month}}
  metered:
    limits:
      - {{id: monthly, meter: requests, quota: 100_000_000/month}}
      - {{id: tokens, meter: tokens, quota: 100_000_000/month}}
  steady:
    limits:
      - {{id: monthly, meter: requests, quota: 100_000_000/month}}
      - {{id: daily, meter: requests, quota: 100_000_000/day, per: key}}
  strict:
    extends: steady
    when_store_is_down: deny
  spent:
    limits: [{{id: monthly, meter: requests, quota: 10/month}}]
accounts:
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """Programs of one account. `pause`: seconds between two calls of one of them."""

    plan: str
    programs: int
    pause: float
    request: str = "GET /items"

    @property
    def account(self) -> str:
        """Its plan's name and a number, such that a cluster's first shard has all accounts: that
        is the one that is harmed."""
        numbers = (f"{self.plan}-{number}" for number in range(1_000))
        return next(name for name in numbers if slot_of(keys.state(PREFIX, name)) < _FIRST_SHARD)

    @property
    def critical(self) -> bool:
        """Whether its calls are."""
        return self.plan == "spent"


CALLERS: Final = (
    Caller("counted", 4, 0.04),
    Caller("paced", 3, 0.03),
    Caller("narrow", 8, 0.05, "GET /held"),
    Caller("metered", 2, 0.02, "GET /late"),
    Caller("steady", 4, 0.01),
    Caller("strict", 1, 0.03),
    Caller("spent", 2, 0.01, "POST /login"),
)


def plan_file() -> str:
    """What the sidecars read. The keys are the accounts' names."""
    lines = [
        f"  - {{id: {one.account}, plan: {one.plan}, keys: [{{id: k1, "
        f"sha256: {sha256(one.account.encode()).hexdigest()}}}]}}"
        for one in CALLERS
    ]
    return _PLANS + "\n".join(lines) + "\n"
