"""`python -m loadtests.cluster`: a real API server accepts, stores and does what it should.

It builds kube-apiserver and kube-controller-manager once, starts them with etcd on 127.0.0.1, runs
the checks and prints a verdict for each. Nothing is left running.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from loadtests.cluster.checks import Checks
from loadtests.cluster.control_plane import ControlPlane, Unexpected, missing
from loadtests.cluster.go_build import VERSION, NotBuilt, build
from loadtests.processes import DidNotStart, Stack


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 if every check holds, 1 if not, 2 if the cluster cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.cluster", description=__doc__)
    parser.add_argument("--built", action="store_true", help="use what is built, and build nothing")
    options = parser.parse_args(arguments)
    try:
        if not options.built:
            build()
        lacking = missing()
        if lacking:
            print(f"missing: {', '.join(lacking)}", file=sys.stderr)
            return 2
        with Stack() as stack:
            return _run(stack)
    except (NotBuilt, DidNotStart) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; nothing is left running.")
        return 130


def _run(stack: Stack) -> int:
    started = time.monotonic()
    cluster = ControlPlane(stack)
    cluster.start()
    print(f"Kubernetes {VERSION} is ready after {time.monotonic() - started:.1f} s")
    checks = Checks(stack, cluster)
    failed = 0
    for check in (
        checks.namespace, checks.dry_run, checks.inject, checks.inject_again, checks.uninject,
        checks.webhook, checks.webhook_of_other_kinds, checks.service_by_name, checks.warnings,
        checks.certificate, checks.chart, checks.fail_open,
    ):  # fmt: skip
        try:
            note = check()
            verdict = f"ok    {check.__doc__}{f' {note}' if note else ''}"
        except (Unexpected, DidNotStart) as error:
            failed += 1
            verdict = f"WRONG {check.__doc__}\n      {error}"
        print(verdict, flush=True)
    print(f"{failed} checks failed." if failed else "Every check holds.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
