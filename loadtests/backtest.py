"""`python -m loadtests.backtest`: the duration of a backtest of one million requests.

Writes a spool of about 650 MB to a temporary directory, runs `sidecar backtest` on one core, and
compares its CPU time with the bound. CPU time does not depend on other processes on the machine.
The requests belong to 200 accounts on the plans of examples/plans.yaml; a third of them use
routes with more than one cost.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson

from sidecar.core.events.build import usage_event
from sidecar.core.model import Account, Entitlement, Key, PlanBook
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.metering.segments import NO_LINE, line_hash

MAX_CPU_S: Final = 30.0  # for one million events
SEGMENT: Final = 100_000  # events
START: Final = datetime(2026, 11, 1, tzinfo=UTC)
PLANS: Final = Path(__file__).parents[1] / "examples" / "plans.yaml"


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.backtest", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="events (1,000,000)")
    parser.add_argument("--keep", type=Path, help="directory for the spool; reused if it has one")
    options = parser.parse_args(args)
    if options.events < 1:
        parser.error("--events must be at least 1")
    return options


def usage_events(book: PlanBook, count: int) -> Iterator[dict[str, Any]]:
    """Yield the events of requests that arrive 1 ms or 2 ms apart."""
    chance = random.Random(7)
    accounts = [Account(f"account-{n:03d}", chance.choice(list(book.plans))) for n in range(200)]
    routes = [route.id for route in book.routes]
    at_ms = int(START.timestamp() * 1000)
    for number in range(count):
        at_ms += chance.randrange(1, 3)
        account = chance.choice(accounts)
        route = "rest" if chance.random() < 2 / 3 else chance.choice(routes)
        yield _event(book.entitlements[account.plan, route], account, number, at_ms, chance)


def _event(
    entitlement: Entitlement, account: Account, number: int, at_ms: int, chance: random.Random
) -> dict[str, Any]:
    time_of = datetime.fromtimestamp(at_ms / 1000, UTC)
    return usage_event(
        id=f"{at_ms:012x}-7abc-8def-{number:012x}",
        source="/sidecar/prod/shop",
        time=time_of.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        key=Key(f"k{number % 3}", account),
        entitlement=entitlement,
        plan_version="sha256:" + "ab" * 32,
        method="GET",
        outcome=Outcome(200, OutcomeReason.OK, chance.randrange(3, 400), 512, 2_048),
    )


def write(directory: Path, events: Iterator[dict[str, Any]]) -> None:
    """Write the segments of a spool as a sidecar would."""
    directory.mkdir(parents=True, exist_ok=True)
    file, previous = None, NO_LINE
    for seq, event in enumerate(events, 1):
        if file is None or seq % SEGMENT == 1:
            if file is not None:
                file.close()
            file = (directory / f"{seq:020d}.jsonl").open("wb")
        position = b'{"spool":"0192c000-bench","seq":%d,"prev":"%b",' % (seq, previous)
        line = position + orjson.dumps(event)[1:]
        previous = line_hash(line)
        file.write(line + b"\n")
    if file is not None:
        file.close()


def run(directory: Path) -> tuple[float, float, int]:
    """Run the backtest. Returns elapsed seconds, CPU seconds, and peak memory in MiB."""
    program = str(Path(sys.executable).parent / "sidecar")
    one_core = {min(os.sched_getaffinity(0))}
    began = time.perf_counter()
    subprocess.run(
        [program, "backtest", str(PLANS), "--events", str(directory)],
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, one_core),
    )
    took, used = time.perf_counter() - began, getrusage(RUSAGE_CHILDREN)
    return took, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


def main() -> int:
    """Run the benchmark. Returns exit code 0 if it was fast enough, else 1."""
    from sidecar.config.loading import load

    options = arguments()
    with TemporaryDirectory(prefix="backtest-") as scratch:
        directory = options.keep or Path(scratch) / "spool"
        if not any(directory.glob("*.jsonl")):
            print(f"Writing {options.events:,} events in {directory}", file=sys.stderr)
            write(directory, usage_events(load(PLANS), options.events))
        took, cpu, memory = run(directory)
    max_cpu = MAX_CPU_S * options.events / 1_000_000
    print(f"\n{options.events:,} events: {took:.1f} s, {cpu:.1f} s of CPU, {memory} MiB")
    if cpu > max_cpu:
        print(f"FAILED  more than {max_cpu:g} s of CPU", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
