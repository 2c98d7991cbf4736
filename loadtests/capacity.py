"""`python -m loadtests.capacity`: what a fleet of sidecars needs, from measured numbers.

Each constant names the file that has its measurement; a test compares the two. The table for two
fleets is in docs/how-to/operate.md, and a test keeps it equal to this program's output.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple


class Measured(NamedTuple):
    """A measured number: the file that has it, and the words there."""

    value: float
    file: str
    words: str


_PAGE: Final = "docs/explanation/performance.md"
_FOOTPRINT: Final = "loadtests/FOOTPRINT.md"

CPU_US: Final = Measured(50, _PAGE, "| CPU time of a request | 42–50 µs |")
MEMORY_MB: Final = Measured(70, _PAGE, "| memory | 70 MB, and 5 KB per open connection |")
CONNECTION_KB: Final = Measured(5, _PAGE, "| memory | 70 MB, and 5 KB per open connection |")
RESERVE_US: Final = Measured(14, _PAGE, "takes 14 µs of the server's time with three limits")
EVENT_BYTES: Final = Measured(700, _PAGE, "A usage event is 700 bytes")
RECORD_BYTES: Final = Measured(
    593, _FOOTPRINT, "| account record and one API key in Redis | 593 bytes |"
)
STATE_BYTES: Final = Measured(
    292, _FOOTPRINT, "| state of three limits of an account | 292 bytes |"
)
CONNECTIONS: Final = Measured(2, _FOOTPRINT, "| connections of a sidecar | 2 |")
IDLE_MS: Final = Measured(
    1.16, _FOOTPRINT, "| CPU of an idle sidecar in Redis | 1.16 ms per second |"
)
IDLE_MS_WITHOUT_JOBS: Final = Measured(
    0.74, _FOOTPRINT, "| CPU of an idle sidecar in Redis, --jobs off | 0.74 ms per second |"
)
MEASURED: Final = (
    CPU_US, MEMORY_MB, CONNECTION_KB, RESERVE_US, EVENT_BYTES, RECORD_BYTES, STATE_BYTES,
    CONNECTIONS, IDLE_MS, IDLE_MS_WITHOUT_JOBS,
)  # fmt: skip

# What is chosen, not measured.
BUSIEST: Final = 0.5  # of a core, for a Redis server that still answers in time
SPARE: Final = 2.0  # memory of a Redis: a snapshot copies what changes during it
MOST_CLIENTS: Final = 10_000  # maxclients of Redis, by default
SPOOL_BYTES: Final = 1 << 30  # --spool-max-bytes, by default


@dataclass(frozen=True, slots=True)
class Fleet:
    """The sidecars and accounts, and their requests."""

    pods: int
    accounts: int
    peak_per_pod: int  # requests per second in the busiest hour
    average: float  # of a day, as a part of the peak
    active: float  # part of the accounts that sends requests in one month
    connections: int  # of clients, per pod
    jobs: bool


class Row(NamedTuple):
    """One line of the table."""

    what: str
    need: str


def rows(fleet: Fleet) -> Iterator[Row]:
    """What the fleet needs."""
    peak = fleet.pods * fleet.peak_per_pod
    average_per_pod = fleet.peak_per_pod * fleet.average
    yield Row("requests per second at the peak, in all", f"{peak:,}")
    cores = fleet.peak_per_pod * CPU_US.value / 1e6
    yield Row("CPU of a sidecar at the peak", f"{cores:.2f} cores")
    yield Row("CPU of all sidecars", f"{cores * fleet.pods:,.1f} cores")
    megabytes = MEMORY_MB.value + fleet.connections * CONNECTION_KB.value / 1e3
    yield Row("memory of a sidecar", f"{megabytes:,.0f} MB")
    yield Row("memory of all sidecars", f"{megabytes * fleet.pods / 1e3:,.1f} GB")
    yield from _redis(fleet, peak)
    per_day = average_per_pod * 86_400
    yield Row("usage events per day, in all", f"{per_day * fleet.pods / 1e6:,.0f} million")
    gigabytes = per_day * fleet.pods * EVENT_BYTES.value / 1e9
    yield Row("usage events per day, in the sinks", f"{gigabytes:,.0f} GB")
    hours = SPOOL_BYTES / (average_per_pod * EVENT_BYTES.value * 3_600)
    yield Row("outage of a sink that a spool of 1 GiB bridges", f"{hours:,.1f} hours")


def _redis(fleet: Fleet, peak: int) -> Iterator[Row]:
    idle = IDLE_MS if fleet.jobs else IDLE_MS_WITHOUT_JOBS
    reserving = peak * RESERVE_US.value / 1e6
    following = fleet.pods * idle.value / 1e3
    yield Row("CPU of Redis for requests", f"{reserving:.2f} cores")
    yield Row("CPU of Redis for heartbeats, changes and jobs", f"{following:.2f} cores")
    yield Row(
        f"Redis masters, each at most {BUSIEST:.0%} busy",
        f"{ceil((reserving + following) / BUSIEST)}",
    )
    each = RECORD_BYTES.value + fleet.active * STATE_BYTES.value
    megabytes = fleet.accounts * each * SPARE / 1e6
    yield Row("memory of Redis, twice its data", f"{megabytes:,.0f} MB")
    connections = int(fleet.pods * CONNECTIONS.value)
    part = connections / MOST_CLIENTS
    yield Row("connections to each Redis master", f"{connections:,} ({part:.0%} of `maxclients`)")


SMALL: Final = Fleet(20, 5_000, 200, 1 / 3, 1.0, 200, jobs=True)
LARGE: Final = Fleet(1_000, 1_000_000, 200, 1 / 3, 0.5, 200, jobs=True)


def table(*fleets: Fleet) -> str:
    """A table in Markdown, one column per fleet."""
    heads = [f"{one.pods:,} pods, {one.accounts:,} accounts" for one in fleets]
    same = zip(*(rows(one) for one in fleets), strict=True)
    lines = [f"| {row[0].what} | {' | '.join(one.need for one in row)} |" for row in same]
    return "\n".join([f"| | {' | '.join(heads)} |", "|---" * (len(fleets) + 1) + "|", *lines])


def fleet(args: list[str] | None = None) -> tuple[Fleet, ...]:
    """The fleet of a command line; without options, the two of the documentation."""
    parser = argparse.ArgumentParser(prog="make capacity", description=__doc__)
    parser.add_argument("--pods", type=int, default=LARGE.pods)
    parser.add_argument("--accounts", type=int, default=LARGE.accounts)
    parser.add_argument("--peak-per-pod", type=int, default=LARGE.peak_per_pod)
    parser.add_argument("--average", type=float, default=LARGE.average, help="part of the peak")
    parser.add_argument("--active", type=float, default=LARGE.active, help="part of the accounts")
    parser.add_argument("--connections", type=int, default=LARGE.connections)
    parser.add_argument("--no-jobs", dest="jobs", action="store_false", help="--jobs off")
    options = parser.parse_args(args)
    one = Fleet(**vars(options))
    if min(one.pods, one.accounts, one.peak_per_pod) < 1 or one.connections < 0:
        parser.error("--pods, --accounts and --peak-per-pod must be at least 1")
    if not (0 < one.average <= 1 and 0 <= one.active <= 1):
        parser.error("--average and --active are parts: write a number from 0 to 1")
    return (SMALL, LARGE) if one == LARGE else (one,)


def main() -> int:
    """Print the table."""
    print(table(*fleet()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
