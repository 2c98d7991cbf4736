"""`python -m loadtests.hostile`: hostile clients next to a normal and a critical one.

Exit code 0 if each attack stays within its bounds, 1 if one does not (the output names what is
wrong), 2 if something did not start, 130 on Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

import uvloop

from loadtests import verdicts
from loadtests.hostile import table
from loadtests.hostile.attacks import ATTACKS, SPARE_FILES
from loadtests.hostile.run import run_attack
from loadtests.hostile.verdict import Row, row_of
from loadtests.processes import DidNotStart, Stack, allow_files


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make hostile", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="length of each attack, in seconds (8)"
    )
    parser.add_argument(
        "--only", action="append", choices=ATTACKS, help="one attack; may be repeated"
    )
    parser.add_argument("--untimed", action="store_true", help="do not judge latency")
    return verdicts.arguments(parser, args)


def main() -> int:
    """Run the attacks and print the verdicts. Returns the exit code."""
    options = arguments()
    try:
        allow_files(max(attack.connections for attack in ATTACKS.values()) * 2 + SPARE_FILES)
    except DidNotStart as error:
        print(error, file=sys.stderr)
        return 2

    def run(stack: Stack, name: str) -> Row:
        evidence = uvloop.run(run_attack(stack, name, options.seconds))
        return row_of(evidence, timed=not options.untimed)

    return verdicts.run_cases({name: name for name in options.only or ATTACKS}, run, table.lines)


if __name__ == "__main__":
    sys.exit(main())
