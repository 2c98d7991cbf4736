"""Clients and the plan file: one account for each guarantee that a fault could break."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sidecar.stores import keys
from sidecar.stores.connection.slots import SLOTS, slot_of

QUOTA: Final = 600
RATE, BURST = 40, 20  # requests per second, requests
SLOTS_PER_ACCOUNT: Final = 4
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
  concurrent:
    limits:
      - {{id: in-flight, concurrency: {SLOTS_PER_ACCOUNT}}}
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
  used-up:
    limits: [{{id: monthly, meter: requests, quota: 10/month}}]
accounts:
"""


@dataclass(frozen=True, slots=True)
class Client:
    """Programs of one account.

    `pause`: seconds between two requests of one program.
    """

    plan: str
    programs: int
    pause: float
    request: str = "GET /items"

    @property
    def account(self) -> str:
        """The plan's name and a number, so that the first shard of a cluster holds every account.

        The faults of a cluster are injected into that shard.
        """
        numbers = (f"{self.plan}-{number}" for number in range(1_000))
        return next(name for name in numbers if slot_of(keys.state(PREFIX, name)) < _FIRST_SHARD)

    @property
    def critical(self) -> bool:
        """Whether the requests are critical."""
        return self.plan == "used-up"


CLIENTS: Final = (
    Client("counted", 4, 0.04),
    Client("paced", 3, 0.03),
    Client("concurrent", 8, 0.05, "GET /slow"),
    Client("metered", 2, 0.02, "GET /late"),
    Client("steady", 4, 0.01),
    Client("strict", 1, 0.03),
    Client("used-up", 2, 0.01, "POST /login"),
)


def plan_file() -> str:
    """The text of the plan file; the API keys are the accounts' names."""
    lines = [
        f"  - {{id: {one.account}, plan: {one.plan}, keys: [{{id: k1, "
        f"sha256: {sha256(one.account.encode()).hexdigest()}}}]}}"
        for one in CLIENTS
    ]
    return _PLANS + "\n".join(lines) + "\n"
