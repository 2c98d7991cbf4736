"""The verdicts as a table for the terminal."""

from collections.abc import Iterator, Sequence
from typing import Final

from loadtests.hostile.verdict import Row

_HEADS: Final = (
    "attack", "connections", "sent", "requests", "failed", "normal p99", "critical p99",
    "memory", "Redis", "verdict",
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
    yield f"Broken: {', '.join(broken)}." if broken else "Every attack stays within its bounds."


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name, f"{row.connections:,}", f"{row.sent:,}", f"{row.requests:,}", f"{row.failed:,}",
        _change(row.normal_ms), _change(row.critical_ms),
        f"{row.idle_mib:.0f} to {row.peak_mib:.0f} MiB", f"{row.redis_mib:+.1f} MiB",
        "BROKEN" if row.wrong else "ok",
    )  # fmt: skip


def _change(milliseconds: tuple[float, float]) -> str:
    calm, attack = milliseconds
    return f"{calm:.1f} to {attack:.1f} ms"
