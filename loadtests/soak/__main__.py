"""`python -m loadtests.soak`: mixed traffic with faults for some minutes, then a verdict.

Exit code 0 when every check holds, 1 when one does not (each is named), 2 when nothing came
up, 130 on Ctrl-C.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import uvloop

from loadtests.processes import DidNotStart, Stack
from loadtests.soak.run import Soak


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="length of the traffic (600)")
    options = parser.parse_args(given)
    if options.seconds < 10:
        parser.error("--seconds starts at 10: memory takes that long to find its size")
    return options


def main() -> int:
    """The exit code."""
    options = arguments()
    try:
        with Stack() as stack:
            return uvloop.run(Soak(stack, options.seconds).run())
    except DidNotStart as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Stopped; nothing is left running.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
