"""`python -m loadtests.run`: scenarios one after the other, each with processes of its own and
Locust in front of them, then a table of what was promised and measured.

Exit code 0 when every promise was kept, 1 when one was not, 2 when something did not start.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtests.processes import DidNotStart
from loadtests.scenarios.assignment import Options
from loadtests.scenarios.catalog import FIXED, NAMES, Scenario, customers
from loadtests.scenarios.report import Report
from loadtests.scenarios.runner import run_scenario

PLANS = Path(__file__).parents[1] / "examples" / "plans.yaml"
LEAST_CALLS = 100


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--scenario", choices=(*NAMES, "all"), default="all", help="which (all)")
    parser.add_argument("--users", type=int, default=20, help="programs of the customers (20)")
    parser.add_argument("--seconds", type=int, default=20, help="length of a scenario (20)")
    parser.add_argument("--calls", type=int, default=10_000, help="of the crowd (10,000)")
    parser.add_argument("--plans", type=Path, default=PLANS, help="plan file of the customers")
    parser.add_argument("--no-timing", dest="timing", action="store_false",
                        help="measure how long things took, and do not judge it")  # fmt: skip
    options = parser.parse_args(given)
    if options.users < 4 or options.seconds < 1:
        parser.error("--users starts at 4, one for each plan; --seconds at 1")
    if options.calls < LEAST_CALLS:
        parser.error(f"--calls starts at {LEAST_CALLS}")
    return options


def chosen(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios that were asked for, in order."""
    known = {"customers": customers(options.users, options.plans), **FIXED}
    return [one for name, one in known.items() if options.scenario in (name, "all")]


def show(reports: dict[str, tuple[Report, float]]) -> None:
    """Print what was measured, and which promises are broken."""
    table = Table(title="Load", show_lines=True)
    for column in ("scenario", "verdict", "measured", "s"):
        table.add_column(column, justify="right" if column == "s" else "left")
    for name, (report, took) in reports.items():
        numbers = [f"{what}: {value}" for what, value in report.numbers.items()]
        broken = [f"BROKEN {line}" for line in report.verdict.lines()]
        verdict = "BROKEN" if broken else "kept"
        table.add_row(name, verdict, "\n".join([*numbers, *broken]), f"{took:.0f}")
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)


def main() -> int:
    """The exit code."""
    options = arguments()
    common = Options(options.seconds, options.calls, options.timing)
    reports: dict[str, tuple[Report, float]] = {}
    for scenario in chosen(options):
        print(f"{scenario.name}:", flush=True)
        began = time.monotonic()
        try:
            report = run_scenario(scenario, common)
        except DidNotStart as error:
            show(reports)
            print(error, file=sys.stderr)
            return 2
        reports[scenario.name] = report, time.monotonic() - began
    show(reports)
    return max(report.code for report, _ in reports.values())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
