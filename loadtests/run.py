"""`python -m loadtests.run`: run load scenarios and print a table of guarantees.

Each scenario has its own processes. Exit code 0 if every guarantee held, 1 if one did not, 2 if
something did not start.
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


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument(
        "--scenario", choices=(*NAMES, "all"), default="all", help="scenario to run (all)"
    )
    parser.add_argument("--users", type=int, default=20, help="programs of the customers (20)")
    parser.add_argument(
        "--seconds", type=int, default=20, help="length of a scenario, in seconds (20)"
    )
    parser.add_argument("--calls", type=int, default=10_000, help="requests of the crowd (10,000)")
    parser.add_argument("--plans", type=Path, default=PLANS, help="plan file of the customers")
    parser.add_argument("--no-timing", dest="timing", action="store_false",
                        help="measure latency, but do not judge it")  # fmt: skip
    options = parser.parse_args(args)
    if options.users < 4 or options.seconds < 1:
        parser.error("--users must be at least 4, one per plan; --seconds at least 1")
    if options.calls < LEAST_CALLS:
        parser.error(f"--calls must be at least {LEAST_CALLS}")
    return options


def chosen(options: argparse.Namespace) -> list[Scenario]:
    """The chosen scenarios, in order."""
    known = {"customers": customers(options.users, options.plans), **FIXED}
    return [one for name, one in known.items() if options.scenario in (name, "all")]


def show(reports: dict[str, tuple[Report, float]]) -> None:
    """Print the measurements and the violations."""
    table = Table(title="Load", show_lines=True)
    for column in ("scenario", "verdict", "measured", "s"):
        table.add_column(column, justify="right" if column == "s" else "left")
    for name, (report, took) in reports.items():
        numbers = [f"{what}: {value}" for what, value in report.numbers.items()]
        broken = [f"BROKEN {line}" for line in report.verdict.lines()]
        verdict = "BROKEN" if broken else "ok"
        table.add_row(name, verdict, "\n".join([*numbers, *broken]), f"{took:.0f}")
    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)


def main() -> int:
    """Run the scenarios. Returns the exit code."""
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
