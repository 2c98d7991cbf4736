"""`python -m loadtests.faults`: break Redis under load in several ways, and judge each fault.

Exit code 0 if each fault stays within its bounds, 1 if one does not (the output names what is
wrong), 2 if something did not start, 130 on Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

import uvloop

from loadtests import verdicts
from loadtests.faults import table
from loadtests.faults.faults import FAULTS
from loadtests.faults.run import run_fault
from loadtests.faults.verdict import Row, row_of
from loadtests.processes import Stack

NAMES = {fault.name.replace(" ", "-"): fault for fault in FAULTS}


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of a fault, in seconds (5)"
    )
    parser.add_argument("--only", action="append", choices=NAMES, help="one fault; may be repeated")
    parser.add_argument(
        "--untimed", action="store_true",
        help="judge nothing that depends on how fast this machine is",
    )  # fmt: skip
    reason = ": the sidecar closes a silent connection after 1 s"
    return verdicts.arguments(parser, args, reason=reason)


def main() -> int:
    """Run the faults and print the verdicts. Returns the exit code."""
    options = arguments()

    def run(stack: Stack, name: str) -> Row:
        evidence = uvloop.run(run_fault(stack, NAMES[name], options.seconds))
        return row_of(evidence, timed=not options.untimed)

    titles = {name: NAMES[name].name for name in options.only or NAMES}
    return verdicts.run_cases(titles, run, table.lines)


if __name__ == "__main__":
    sys.exit(main())
