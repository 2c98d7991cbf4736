"""`make rehearse`: rolls the gateway and an application of the rendered manifests under load."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from loadtests.processes import DidNotStart, Stack
from loadtests.rehearse.manifest import Pod, application, gateway
from loadtests.rehearse.run import Rehearsal
from loadtests.valkey import start_valkey

SETTINGS = {"sinks": ["redis"]}


def main(given: Sequence[str] | None = None) -> int:
    """Exit code 1 if a request failed or an event was lost, 2 if something did not start."""
    parser = argparse.ArgumentParser(prog="make rehearse", description=__doc__)
    parser.add_argument("--replicas", type=int, default=2, help="pods of each workload (2)")
    parser.add_argument("--requests", type=int, default=500, help="of a pod between changes (500)")
    parser.add_argument(
        "--propagation", type=float, default=2.0, help="seconds until clients leave a pod (2)"
    )
    parser.add_argument(
        "--without-hooks", action="store_true", help="leave out the preStop hooks: it should fail"
    )
    options = parser.parse_args(given)
    with Stack() as stack:
        try:
            _, port = start_valkey(stack)
            pods = {
                "gateway": gateway(SETTINGS),
                "application": application(SETTINGS, stack.directory),
            }
            problems = [
                problem
                for name, pod in pods.items()
                for problem in _rehearse(name, pod, stack, port, options)
            ]
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
    print("\n".join(problems) or "No failed request, no lost event.")
    return 1 if problems else 0


def _rehearse(
    name: str, pod: Pod, stack: Stack, port: int, options: argparse.Namespace
) -> list[str]:
    rehearsal = Rehearsal(
        name,
        pod.without_hooks() if options.without_hooks else pod,
        stack.directory / name,
        port,
        propagation_s=options.propagation,
    )
    verdict = asyncio.run(rehearsal.run(options.replicas, options.requests))
    print(verdict.line, flush=True)
    return [f"{name}: {problem}" for problem in verdict.problems]


if __name__ == "__main__":
    sys.exit(main())
