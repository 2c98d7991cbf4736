"""`python -m loadtests.slow`: a normal client next to 1,000 slow connections.

slowhttptest opens the slow connections. The run fails if a request of the normal client fails, or
if its p99 more than doubles. The p99 is compared with that during the same attack on the API
itself: slowhttptest never sleeps, and takes two thirds of the core that it shares with the client,
the API and Redis.
"""

import argparse
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
from rich.console import Console
from rich.table import Table

from loadtests.compare.gateways import (
    GATEWAY_CORE,
    OTHERS_CORE,
    find,
    start_upstream,
)
from loadtests.compare.measure import LARGE_PATH, PATH, Sample, load
from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_http
from loadtests.valkey import start_valkey

HERE = Path(__file__).parent
CONNECTIONS = 1_000
PER_SECOND = 500
ONSET_SECONDS = 4  # until the sidecar has detected the slow connections; its p99 is not judged
NORMAL = 2  # connections of the normal client
WORST = 2.0  # times the calm p99
LEAST_US = 1_000  # a lower p99 counts as this one: below it, noise decides
NEEDS = "This needs wrk, nginx and slowhttptest: apt-get install wrk nginx slowhttptest."
UPLOAD_PATH = "/upload"
ATTACKS = {  # name → path, how
    "slow headers": (PATH, ("-H", "-i", "1")),
    "slow bodies": (UPLOAD_PATH, ("-B", "-i", "1", "-s", "1000000")),
    "slow readers": (LARGE_PATH, ("-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32")),
}


@dataclass(frozen=True)
class Target:
    """The sidecar under attack."""

    running: Running
    port: int
    control: int
    api: int  # port of the API

    def connections(self) -> int:
        """The number of client connections now."""
        url = f"http://127.0.0.1:{self.control}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("sidecar_client_connections "):
                    return int(float(line.split()[1]))
        raise RuntimeError("the sidecar has no metric sidecar_client_connections")


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make slow", description=__doc__)
    parser.add_argument(
        "--seconds", type=int, default=8, help="length of each attack, in seconds (8)"
    )
    options = parser.parse_args(args)
    if options.seconds < 1:
        parser.error("--seconds must be at least 1")
    return options


def start_target(stack: Stack, valkey: int) -> Target:
    """Start a sidecar with default settings on a core of its own. Raises DidNotStart."""
    upstream, port, control = start_upstream(stack), free_port(), free_port()
    command = [
        str(Path(sys.executable).parent / "sidecar"), "serve",
        "--plans", str(HERE / "slow.yaml"), "--upstream", f"http://127.0.0.1:{upstream}",
        "--listen", f"127.0.0.1:{port}", "--control", f"127.0.0.1:{control}",
        "--redis", f"redis://127.0.0.1:{valkey}/0", "--spool", str(stack.directory / "spool"),
    ]  # fmt: skip
    running = stack.start("sidecar", command, core=GATEWAY_CORE)
    wait_for_http(running, f"http://127.0.0.1:{control}/readyz")
    return Target(running, port, control, upstream)


def attack(
    stack: Stack,
    target: Target,
    store: "redis.Redis",
    name: str,
    seconds: int,
    *,
    elsewhere: bool = False,
) -> tuple[list[Sample], int]:
    """Attack, and measure the normal client at the onset and later.

    Returns both samples and the number of slow connections. With `elsewhere`, the attack goes to
    the API itself.
    """
    path, how = ATTACKS[name]
    command = [
        "slowhttptest", *how, "-c", str(CONNECTIONS), "-r", str(PER_SECOND),
        "-l", str(seconds + ONSET_SECONDS + CONNECTIONS // PER_SECOND + 10),
        "-u", f"http://127.0.0.1:{target.api if elsewhere else target.port}{path}",
    ]  # fmt: skip
    running = stack.start("slowhttptest", command, core=OTHERS_CORE)
    wait = CONNECTIONS / PER_SECOND if elsewhere else 10.0
    deadline, opened = time.monotonic() + wait, 0
    while opened < CONNECTIONS * 9 // 10 and time.monotonic() < deadline:
        opened = max(opened, target.connections())
        time.sleep(0.1)
    try:
        samples = [
            load(target.running, target.port, store, connections=NORMAL, seconds=each)
            for each in (ONSET_SECONDS, seconds)
        ]
    finally:
        stack.stop(running)
    return samples, max(opened, target.connections())


def failures(calm_us: float, attacks: dict[str, list[Sample]]) -> list[str]:
    """The effects on the normal client that must not be, as sentences.

    The p99 of the last sample of each attack is judged.
    """
    sentences = []
    for name, samples in attacks.items():
        sentences += [f"{name}: {sample.problem}" for sample in samples if sample.problem]
        p99 = samples[-1].p99_us
        if max(p99, LEAST_US) > WORST * max(calm_us, LEAST_US):
            sentences.append(f"{name}: p99 {p99} µs, {calm_us:.0f} µs when calm")
    return sentences


def main() -> int:
    """Run the attacks.

    Returns exit code 0 if the normal client was served as before, 1 if not, 2 if a program is
    missing.
    """
    options = arguments()
    if not (find("wrk") and find("nginx") and find("slowhttptest")):
        print(NEEDS, file=sys.stderr)
        return 2
    table = Table(title=f"A normal client while {CONNECTIONS:,} connections are slow")
    for column in ("attack", "connections", "requests/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "attack" else "right")

    def row(name: str, opened: int, sample: Sample) -> None:
        table.add_row(name, str(opened), f"{sample.requests_per_s:,.0f}",
                      f"{sample.p50_us / 1000:.2f}", f"{sample.p99_us / 1000:.2f}")  # fmt: skip

    with Stack() as stack:
        try:
            _, valkey = start_valkey(stack, core=OTHERS_CORE)
            target = start_target(stack, valkey)
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
        with redis.Redis(port=valkey) as store:
            calm = []
            for _ in range(3):
                calm.append(load(target.running, target.port, store, connections=NORMAL,
                                 seconds=max(1, options.seconds // 2)))  # fmt: skip
                row("none", target.connections(), calm[-1])
            (_, calm[0]), _ = attack(
                stack, target, store, "slow headers", options.seconds, elsewhere=True
            )
            row("elsewhere", target.connections(), calm[0])
            samples: dict[str, list[Sample]] = {}
            for name in ATTACKS:
                print(f"{name}: {options.seconds} s", flush=True)
                samples[name], opened = attack(stack, target, store, name, options.seconds)
                row(f"{name}, onset", opened, samples[name][0])
                row(name, opened, samples[name][1])
    Console().print(table)
    sentences = failures(calm[0].p99_us, samples)
    for line in sentences:
        print(f"FAILED  {line}", file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
