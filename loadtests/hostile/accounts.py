"""Accounts and the plan file: two measured clients, and the accounts of attackers."""

from hashlib import sha256
from typing import Final

NORMAL_KEY: Final = "hostile-normal-key"
CRITICAL_KEY: Final = "hostile-critical-key"
ATTACKER_KEY: Final = "hostile-attacker-key"
USED_UP_KEY: Final = "hostile-used-up-key"  # its requests to a deferrable route become jobs

# Each has a loopback address of its own, as clients on different machines would have.
NORMAL_ADDRESS: Final = "127.0.0.3"
CRITICAL_ADDRESS: Final = "127.0.0.4"
ATTACKER_ADDRESS: Final = "127.0.0.2"

_PLANS: Final = """
version: 1
meters:
  requests: {unit: request}
  tokens:
    unit: token
    reserve: {json: max_tokens, default: 10}
    settle: {json: usage.total_tokens}
routes:
  - {id: login, match: "POST /login", class: critical}
  - {id: exports, match: "POST /exports", class: deferrable}
  - {id: chat, match: "POST /chat", cost: {requests: 1, tokens: reserve}}
  - {id: rest, match: "/**"}
plans:
  open:
    limits:
      - {id: per-second, meter: requests, rate: 10_000/s, burst: 10_000}
      - {id: tokens, meter: tokens, quota: 1_000_000_000/month}
  small:
    limits:
      - {id: per-second, meter: requests, rate: 50/s, burst: 300}
      - {id: tokens, meter: tokens, quota: 1_000_000/month, at: {100%: overage}}
  used-up:
    limits:
      - {id: monthly, meter: requests, quota: 1/month}
      - {id: tokens, meter: tokens, quota: 1_000_000/month}
accounts:
"""
_ACCOUNTS: Final = (
    ("normal", "open", NORMAL_KEY),
    ("critical", "open", CRITICAL_KEY),
    ("attacker", "small", ATTACKER_KEY),
    ("used-up", "used-up", USED_UP_KEY),
)


def plan_file() -> str:
    """The text of the plan file."""
    lines = [
        f"  - {{id: {account}, plan: {plan}, keys: [{{id: k1, "
        f"sha256: {sha256(key.encode()).hexdigest()}}}]}}"
        for account, plan, key in _ACCOUNTS
    ]
    return _PLANS + "\n".join(lines) + "\n"
