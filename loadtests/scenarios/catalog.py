"""The scenarios, and the processes that each of them needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
NO_FLAGS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Capacity:
    """The capacity of the API.

    `workers` requests at a time take `service_ms` each; `queue` more may wait.
    """

    workers: int = 256
    service_ms: int = 0
    queue: int = 10_000

    @property
    def per_second(self) -> float:
        """Requests per second that the API can answer; infinite if they take no time."""
        return self.workers * 1000 / self.service_ms if self.service_ms else inf


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    `users`: Locust's users. `flags`: options of `sidecar serve`. `sidecars`: additional options of
    each sidecar. `kill_every_s`: seconds between two kills of a sidecar, 0 for none. `crowded`:
    each request takes an open file of Locust and of the sidecar.
    """

    name: str
    locustfile: Path
    plans: Path
    users: int
    api: Capacity | None = Capacity()  # None: the sample API
    flags: Mapping[str, str] = field(default_factory=dict)
    sidecars: tuple[Mapping[str, str], ...] = ({},)
    kill_every_s: float = 0.0
    crowded: bool = False


def _of(name: str, users: int, flags: Mapping[str, str] = NO_FLAGS, **more: object) -> Scenario:
    """A scenario whose module and plan file have its name.

    Redis gets a long timeout, because the machine may be busy. Other tests cover Redis timeouts.
    """
    flags = {"redis-timeout-ms": "2000", **flags}
    module, plans = HERE / f"{name}.py", HERE / f"{name}.yaml"
    return Scenario(name, module, plans, users, flags=flags, **more)  # type: ignore[arg-type]


def customers(users: int, plans: Path) -> Scenario:
    """The scenario of customers on the plans of any plan file."""
    return Scenario("customers", HERE.parent / "locustfile.py", plans, users, api=None)


FIXED: Final = {
    one.name: one
    for one in (
        _of(
            "overload", 210,
            api=Capacity(workers=20, service_ms=200, queue=200),
            flags={"shed": "20", "account-connections-percent": "100"},  # one account floods it
        ),
        _of("burst", 2),
        _of(
            "crowd", 10,
            flags={
                "max-connections": "12000",
                "max-connections-per-address": "0",
                "waiting-requests": "20000",
            },
            crowded=True,
        ),
        _of(
            "fairness", 409,
            api=Capacity(workers=40, service_ms=200),
            flags={"upstream-connections": "40", "critical-connections": "0"},
        ),
        _of(
            "jobs", 8,
            api=Capacity(workers=200, service_ms=1000),
            flags={"job-lease-s": "1"},
            sidecars=({"jobs": "at-least-once"}, {"jobs": "at-most-once"}),
            # An interrupted job ends before the next kill: after a job lease and another run.
            kill_every_s=3.0,
        ),
    )
}  # fmt: skip
NAMES: Final = ("customers", *FIXED)
