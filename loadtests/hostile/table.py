"""The verdicts as a table for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Final

from loadtests import verdicts
from loadtests.hostile.verdict import Row

_HEADS: Final = (
    "attack", "connections", "sent", "requests", "failed", "normal p99", "critical p99",
    "memory", "Redis",
)  # fmt: skip


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, then what is wrong."""
    return verdicts.lines(_HEADS, rows, _cells, "Every attack stays within its bounds.")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name, f"{row.connections:,}", f"{row.sent:,}", f"{row.requests:,}", f"{row.failed:,}",
        _change(row.normal_ms), _change(row.critical_ms),
        f"{row.idle_mib:.0f} to {row.peak_mib:.0f} MiB", f"{row.redis_mib:+.1f} MiB",
    )  # fmt: skip


def _change(milliseconds: tuple[float, float]) -> str:
    calm, attack = milliseconds
    return f"{calm:.1f} to {attack:.1f} ms"
