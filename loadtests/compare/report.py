"""The measurements as a table for the terminal, as Markdown and as JSON."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.compare.gateways import SIDECAR
from loadtests.compare.measure import Row, Sample

COLUMNS = (
    "gateway", "requests/s", "× sidecar", "core", "µs/req", "p50 ms", "p99 ms", "p50 ms c8",
    "p99 ms c8", "1 MB/s", "MB", "Redis/req",
)  # fmt: skip


def cells(row: Row, sidecar: Row | None) -> list[str]:
    """The cells of a row; a void row shows its reason and no number."""
    if row.void or not row.full:
        return [row.title, f"void: {row.void}", *[""] * (len(COLUMNS) - 2)]
    ratio = (
        f"{row.requests_per_s / sidecar.requests_per_s:.2f}" if sidecar and sidecar.full else "–"
    )

    def ms(samples: Sequence[Sample], name: str) -> str:
        values = [getattr(sample, name) for sample in samples]
        return f"{median(values) / 1000:.2f}" if values else "–"

    return [
        row.title, f"{row.requests_per_s:,.0f}", ratio,
        f"{median(sample.cpu for sample in row.full):.0%}",
        f"{median(sample.cpu / sample.requests_per_s for sample in row.full) * 1e6:.1f}",
        ms(row.full, "p50_us"), ms(row.full, "p99_us"),
        ms(row.light, "p50_us"), ms(row.light, "p99_us"),
        f"{median(sample.requests_per_s for sample in row.large):,.0f}" if row.large else "–",
        f"{row.rss_bytes / 1_000_000:.0f}",
        f"{median(sample.scripts for sample in row.full):.2f}",
    ]  # fmt: skip


def _sidecar(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.id == SIDECAR and not row.void), None)


def show(rows: Sequence[Row], skipped: Sequence[str]) -> None:
    """Print the table, the void rows and the skipped gateways."""
    console = Console(width=max(125, Console().width))
    table = Table(
        title="One core each, 64 connections (c8: 8); medians over the rounds",
        caption="core: share of it used; µs/req: CPU time per request; 1 MB/s: answers of 1 MB "
        "per second; MB: resident; Redis/req: scripts run per request",
    )
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        if row.void:
            console.print(f"void  {row.title}: {row.void}", style="red", markup=False)
        else:
            table.add_row(*cells(row, _sidecar(rows)))
    console.print(table)
    for line in skipped:
        console.print(f"skipped  {line}", style="yellow", markup=False)


def machine() -> str:
    """Processor, cores, kernel and Python, which the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "unknown"
    )
    python = f"Python {platform.python_version()} ({Path(sys.executable).resolve()})"
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, {python}"


def markdown(rows: Sequence[Row], skipped: Sequence[str], rounds: int, seconds: int) -> str:
    """The page RESULTS.md."""
    body = "\n".join(f"| {' | '.join(cells(row, _sidecar(rows)))} |" for row in rows)
    left_out = "".join(f"\nSkipped: {line}\n" for line in skipped)
    spread = "\n".join(
        f"- {row.title}: {', '.join(f'{sample.requests_per_s:,.0f}' for sample in row.full)}"
        for row in rows
        if not row.void
    )
    return f"""# Results

Written by `make bench ARGS=--write-results` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.

Machine: {machine()}.

Each gateway is pinned to one core; wrk (64 connections, then 8), the nginx upstream and Valkey
share the other one. {rounds} interleaved rounds of {seconds} s; the table shows medians.
wrk requests a thousand items in turn. "core" is the share of the gateway's core that it used,
"µs/req" the CPU time per request, "c8" with 8 connections, "1 MB/s" the answers of 1 MB per second
through 8 connections, "MB" resident memory, "Redis/req" the scripts that Redis ran per request.
A row with an answer that is not 2xx is void. The sidecar checks identity and three limits, and
writes a billing event per request. So does the nginx of "the same work", though its events do not
wait for the disk. The other gateways do what their line names. If a gateway used less than its
whole core, the other core was the bottleneck: compare "µs/req" instead.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
{body}
{left_out}
Requests/s of each round:

{spread}
"""


def as_json(rows: Sequence[Row], skipped: Sequence[str], rounds: int, seconds: int) -> str:
    """Every sample, as JSON."""
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(), "rounds": rounds, "seconds": seconds,
        "gateways": [asdict(row) for row in rows], "skipped": list(skipped),
    }  # fmt: skip
    return json.dumps(result, indent=2) + "\n"
