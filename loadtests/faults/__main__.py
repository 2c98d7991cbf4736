"""`python -m loadtests.faults`: Redis breaks in every way, under load; then a table of verdicts.

Exit code 0 when each fault stays within its bounds, 1 when one does not (what is wrong is told),
2 when something did not come up, 130 on Ctrl-C.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import uvloop

from loadtests.faults import table
from loadtests.faults.faults import FAULTS
from loadtests.faults.run import suffer
from loadtests.faults.verdict import Row, row_of
from loadtests.processes import DidNotStart, Stack

NAMES = {fault.name.replace(" ", "-"): fault for fault in FAULTS}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a fault (5)")
    parser.add_argument("--only", action="append", choices=NAMES, help="one fault; may be repeated")
    parser.add_argument(
        "--untimed", action="store_true",
        help="judge nothing that depends on how fast this machine is",
    )  # fmt: skip
    options = parser.parse_args(given)
    if options.seconds < 1:
        parser.error("--seconds starts at 1: a connection is given up after a second")
    return options


def main() -> int:
    """The exit code."""
    options = arguments()
    rows: list[Row] = []
    try:
        for name in options.only or NAMES:
            print(f"{NAMES[name].name} …", flush=True)
            with Stack() as stack:
                seen = uvloop.run(suffer(stack, NAMES[name], options.seconds))
            rows.append(row_of(seen, timed=not options.untimed))
    except DidNotStart as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Stopped; nothing is left running.")
        return 130
    print(*table.lines(rows), sep="\n")
    return 1 if any(row.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
