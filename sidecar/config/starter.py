"""The plan file that `sidecar init` writes: two plans, from the size of the free one."""

from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Final

MOST_FREE: Final = 1_000_000_000  # requests per month of the free plan
_LEAST_RATE: Final = 5  # requests per second
_SHORTEST_MONTH_S: Final = 28 * 86_400
_PEAK: Final = 10  # how much busier than the average a second may be
_PRO: Final = 50  # units of the plan pro, for each one of the plan free
_TEAM: Final = "our-team"


@dataclass(frozen=True, slots=True)
class Starter:
    """The answers of which a plan file is made. `free`: requests per month of the free plan."""

    file: str
    account: str
    digest: str  # SHA-256 of the account's API key, hex
    free: int


def starter_plan(starter: Starter) -> str:
    """The text of a plan file in which every limit can act.

    A rate whose burst is not below the quota never refuses a request, so a small free plan has no
    rate.
    """
    rate = max(_LEAST_RATE, -(-starter.free * _PEAK // _SHORTEST_MONTH_S))
    burst = 2 * rate
    free_rate = f"      - {{id: per-second, meter: requests, rate: {rate}/s, burst: {burst}}}\n"
    template = resources.files("sidecar.config") / "starter.yaml"
    pro = starter.free * _PRO
    pro_rate = max(1, min(rate * _PRO // 2, pro // 4))
    return Template(template.read_text(encoding="utf-8")).substitute(
        file=starter.file,
        free_rate=free_rate if burst < starter.free else "",
        free_quota=f"{starter.free:_}",
        pro_quota=f"{pro:_}",
        pro_rate=pro_rate,
        pro_burst=2 * pro_rate,
        account=starter.account,
        digest=starter.digest,
        team=_TEAM if starter.account != _TEAM else f"{_TEAM}-2",
    )
