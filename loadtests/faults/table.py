"""The verdicts as a table for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Final

from loadtests.faults.verdict import Row

_HEADS: Final = (
    "fault", "requests", "over quota", "over rate", "slots", "critical refused", "failed",
    "p99 before", "p99 during", "undone", "counters - events", "verdict",
)  # fmt: skip


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, then what is wrong."""
    cells = [_HEADS, *map(_cells, rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(_HEADS))]
    for line in cells:
        yield "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
    for row in rows:
        yield from (f"{row.name}: {sentence}" for sentence in row.wrong)
    broken = [row.name for row in rows if row.wrong]
    yield f"Broken: {', '.join(broken)}." if broken else "Every fault is within its bounds."


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.differences
    difference = "0" if (low, high) == (0, 0) else f"{low:+} to {high:+}"
    return (
        row.name, f"{row.requests:,}", f"{row.over_quota:+}", f"{max(0, row.over_rate)}",
        str(row.slots), str(row.refused), str(row.failed), f"{row.normal_ms:.1f} ms",
        f"{row.fault_ms:.1f} ms", str(row.late_reservations), difference,
        "BROKEN" if row.wrong else "ok",
    )  # fmt: skip
