"""The verdicts as a table for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Final

from loadtests import verdicts
from loadtests.faults.verdict import Row

_HEADS: Final = (
    "fault", "requests", "over quota", "over rate", "slots", "critical refused", "failed",
    "p99 before", "p99 during", "undone", "counters - events",
)  # fmt: skip


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, then what is wrong."""
    return verdicts.lines(_HEADS, rows, _cells, "Every fault is within its bounds.")


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.differences
    difference = "0" if (low, high) == (0, 0) else f"{low:+} to {high:+}"
    return (
        row.name, f"{row.requests:,}", f"{row.over_quota:+}", f"{max(0, row.over_rate)}",
        str(row.slots), str(row.refused), str(row.failed), f"{row.normal_ms:.1f} ms",
        f"{row.fault_ms:.1f} ms", str(row.late_reservations), difference,
    )  # fmt: skip
