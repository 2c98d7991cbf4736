"""Which scenarios there are, and what stands around each of them."""

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
    """Of the API: `workers` calls at a time take `service_ms` each, `queue` more may wait."""

    workers: int = 256
    service_ms: int = 0
    queue: int = 10_000

    @property
    def per_second(self) -> float:
        """Calls that it can answer; infinite when they take no time."""
        return self.workers * 1000 / self.service_ms if self.service_ms else inf


@dataclass(frozen=True)
class Scenario:
    """`users` are Locust's; `flags` of `sidecar serve`. One sidecar for each of `sidecars`, with
    these flags more; `kill_every_s`: so often one of them is killed and started again. `crowded`:
    each call takes an open file, of Locust and of the sidecar."""

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
    """A scenario whose module and plan file have its name. On a busy machine Redis is given the
    time it needs: what happens without it is tried elsewhere."""
    flags = {"redis-timeout-ms": "2000", **flags}
    module, plans = HERE / f"{name}.py", HERE / f"{name}.yaml"
    return Scenario(name, module, plans, users, flags=flags, **more)  # type: ignore[arg-type]


def customers(users: int, plans: Path) -> Scenario:
    """Customers on the plans of a file of one's own."""
    return Scenario("customers", HERE.parent / "locustfile.py", plans, users, api=None)


FIXED: Final = {
    one.name: one
    for one in (
        _of(
            "overload", 210,
            api=Capacity(workers=20, service_ms=200, queue=200),
            flags={"shed": "20"},
        ),
        _of("burst", 2),
        _of(
            "crowd", 10,
            flags={"max-connections": "12000", "waiting-requests": "20000"},
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
            # What one kill interrupts has run again before the next: a lease and a run later.
            kill_every_s=3.0,
        ),
    )
}  # fmt: skip
NAMES: Final = ("customers", *FIXED)
