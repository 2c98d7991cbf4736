"""`python -m loadtests.compare.cost`: CPU time per request, of this tree and of others.

Requests per second depend on other processes on the machine. The CPU time per request depends on
them far less, and the ratio of two trees that are driven in turns even less.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import redis

from loadtests.compare.gateways import (
    OTHERS_CORE,
    PLANS,
    Backends,
    start_sidecar,
    start_upstream,
)
from loadtests.compare.measure import load
from loadtests.processes import DidNotStart, Running, Stack
from loadtests.valkey import start_valkey

HERE = Path(__file__).parents[2]
WARM_UP_SECONDS = 2


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make cost", description=__doc__)
    parser.add_argument("against", nargs="*", type=Path, help="directories that hold a sidecar/")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is driven (5)")
    parser.add_argument(
        "--seconds", type=int, default=6, help="length of each drive, in seconds (6)"
    )
    parser.add_argument("--connections", type=int, default=64, help="connections of wrk (64)")
    parser.add_argument("--plans", type=Path, default=PLANS, help="limits to measure with")
    return parser.parse_args(args)


def drive(
    live: Sequence[tuple[Path, Running, int]], store: "redis.Redis", options: argparse.Namespace
) -> dict[Path, list[float]]:
    """CPU time per request in µs, by tree; one number for each round."""
    spent: dict[Path, list[float]] = {tree: [] for tree, _, _ in live}
    for number in range(options.rounds + 1):
        for tree, running, port in live if number % 2 else reversed(live):
            seconds = options.seconds if number else WARM_UP_SECONDS
            sample = load(running, port, store, connections=options.connections, seconds=seconds)
            if sample.problem:
                raise DidNotStart(f"{tree}: {sample.problem}")
            if number:
                spent[tree].append(sample.cpu / sample.requests_per_s * 1e6)
                print(f"{spent[tree][-1]:6.1f} µs  {sample.requests_per_s:7,.0f}/s  {tree}")
    return spent


def main() -> int:
    """Run the measurement. Returns exit code 2 if something did not start."""
    options = arguments()
    plans = options.plans.resolve()
    trees = [HERE, *(tree.resolve() for tree in options.against)]
    with Stack() as stack:
        try:
            upstream = start_upstream(stack)
            _, valkey = start_valkey(stack, core=OTHERS_CORE)
            backends = Backends(stack, upstream, valkey)
            live = [
                (tree, *start_sidecar(backends, f"sidecar-{at}", tree, plans))
                for at, tree in enumerate(trees)
            ]
            with redis.Redis(port=valkey) as store:
                spent = drive(live, store, options)
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
    baseline = median(spent[HERE])
    for tree, samples in spent.items():
        each = [one / base for one, base in zip(samples, spent[HERE], strict=True)]
        print(f"{median(samples):6.1f} µs  × {median(each):.3f} of {baseline:.1f}  {tree}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
