"""`python -m loadtests.plan_files`: how long large plan files take to check and to reload.

`check` is the time to read a file in a process that already runs. `reload` is with a child process,
as in a sidecar. It fails if one takes longer than its bound.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from sidecar.config.compile_apart import compile_apart
from sidecar.config.loading import load

MOST_S: Final = 2.0
SIZES: Final = ((20, 1_000), (300, 300), (1_000, 1_000))  # plans, routes


def plan_file(plans: int, routes: int) -> str:
    """Return a plan file in which each plan extends the next, with 3 limits of its own."""
    lines = ["version: 1", "meters: {requests: {unit: request}}", "routes:"]
    lines += [f'  - {{id: r{at}, match: "GET /v1/r{at}/**"}}' for at in range(routes)]
    lines.append("plans:")
    limits = ", ".join(f"{{id: q{at}, meter: requests, quota: {at + 1}000/day}}" for at in range(3))
    for at in range(plans):
        extends = f"extends: p{at + 1}, " if at < plans - 1 else ""
        lines.append(f"  p{at}: {{{extends}limits: [{limits}]}}")
    return "\n".join(lines)


def measure(path: Path) -> tuple[float, float]:
    """Seconds to check, and to reload."""
    begin = time.monotonic()
    load(path)
    checked = time.monotonic()
    asyncio.run(compile_apart(path))
    return checked - begin, time.monotonic() - checked


def main() -> int:
    """Print a table; 1 if a file takes too long."""
    table = Table("plans", "routes", "check, s", "reload, s")
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="plan-files-") as directory:
        for plans, routes in SIZES:
            path = Path(directory) / "plans.yaml"
            path.write_text(plan_file(plans, routes))
            took = measure(path)
            table.add_row(f"{plans:,}", f"{routes:,}", *(f"{each:.2f}" for each in took))
            slowest = max(slowest, *took)
    Console().print(table)
    return int(slowest > MOST_S)


if __name__ == "__main__":
    sys.exit(main())
