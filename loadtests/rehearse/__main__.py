"""`make rehearse`: rolls the gateway and an application of the rendered manifests under load.

Then it rolls the application without its preStop hooks, to show that it would see a failed request.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from loadtests.processes import DidNotStart, Stack
from loadtests.rehearse.manifest import Pod, application, gateway
from loadtests.rehearse.run import Rehearsal, Verdict
from loadtests.valkey import start_valkey

SETTINGS = {"sinks": ["redis"]}
UNHOOKED = "application-without-hooks"


def main(given: Sequence[str] | None = None) -> int:
    """Exit code 1 if a request failed or an event was lost, 2 if something did not start."""
    parser = argparse.ArgumentParser(prog="make rehearse", description=__doc__)
    parser.add_argument("--replicas", type=int, default=2, help="pods of each workload (2)")
    parser.add_argument("--requests", type=int, default=500, help="of a pod between changes (500)")
    parser.add_argument(
        "--propagation", type=float, default=2.0, help="seconds until clients leave a pod (2)"
    )
    options = parser.parse_args(given)
    with Stack() as stack:
        try:
            _, port = start_valkey(stack)
            pod = application(SETTINGS, stack.directory)
            pods = {
                "gateway": gateway(SETTINGS),
                "application": pod,
                UNHOOKED: pod.without_hooks(),
            }
            verdicts = [_rehearse(name, pods[name], stack, port, options) for name in pods]
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
    problems = [
        f"{one.workload}: {problem}"
        for one in verdicts
        if one.workload != UNHOOKED
        for problem in one.problems
    ]
    if not verdicts[-1].failed:
        problems.append(f"{UNHOOKED}: no request failed, so the rehearsal is blind")
    print("\n".join(problems) or "With the hooks: no failed request, no lost event.")
    return 1 if problems else 0


def _rehearse(name: str, pod: Pod, stack: Stack, port: int, options: argparse.Namespace) -> Verdict:
    directory = stack.directory / name
    rehearsal = Rehearsal(name, pod, directory, port, propagation_s=options.propagation)
    verdict = asyncio.run(rehearsal.run(options.replicas, options.requests))
    print(verdict.line, flush=True)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
