"""`python -m loadtests.soak`: mixed traffic with faults for some minutes, then a verdict.

Exit code 0 if every check holds, 1 if one does not (the output names each), 2 if something did not
start, 130 on Ctrl-C.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import uvloop

from loadtests.processes import DidNotStart, Stack
from loadtests.soak.run import Soak


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument(
        "--seconds", type=int, default=600, help="length of the traffic, in seconds (600)"
    )
    options = parser.parse_args(args)
    if options.seconds < 10:
        parser.error("--seconds must be at least 10: memory needs that long to settle")
    return options


def main() -> int:
    """Run the soak. Returns the exit code."""
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
