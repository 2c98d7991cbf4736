"""What the demo shows: a live table on a terminal, plain lines anywhere else."""

import asyncio
import sys
from collections import deque
from typing import Any, Final, Protocol

ROWS: Final = 12
_EVERY_S: Final = 0.25


class Decided(Protocol):
    """One decision, as the gate tells it."""

    @property
    def account(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def request_class(self) -> str: ...
    @property
    def decision(self) -> str: ...
    @property
    def remaining(self) -> str: ...


class Lines:
    """One line per decision, for a stdout that is no terminal."""

    def show(self, seen: Decided) -> None:
        """Write one decision."""
        print(  # noqa: T201 - stdout is this class's whole purpose
            f"{seen.account:<14} {seen.route:<12} {seen.request_class:<11} {seen.decision:<24} "
            f"{seen.remaining}",
            flush=True,
        )

    async def until(self, stopped: asyncio.Event) -> None:
        """Return when the demo is stopped."""
        await stopped.wait()


class Table:
    """The last decisions, redrawn four times a second."""

    def __init__(self) -> None:
        self._rows: deque[Decided] = deque(maxlen=ROWS)
        self._total = 0
        self._drawn = -1

    def show(self, seen: Decided) -> None:
        """Keep one decision for the next drawing."""
        self._rows.append(seen)
        self._total += 1

    async def until(self, stopped: asyncio.Event) -> None:
        """Draw until the demo is stopped."""
        from rich.live import Live

        with Live(self._drawing(), auto_refresh=False) as live:
            while not stopped.is_set():
                if self._drawn != self._total:
                    live.update(self._drawing(), refresh=True)
                try:
                    await asyncio.wait_for(stopped.wait(), _EVERY_S)
                except TimeoutError:
                    continue

    def _drawing(self) -> Any:
        from rich.table import Table as Grid
        from rich.text import Text

        self._drawn = self._total
        grid = Grid(title=f"decisions so far: {self._total}", title_justify="left", min_width=76)
        for column in ("account", "route", "class", "decision", "remaining"):
            grid.add_column(column)
        for seen in self._rows:
            colour = "green" if seen.decision.startswith("allow") else "red"
            grid.add_row(
                Text(seen.account),
                Text(seen.route),
                Text(seen.request_class),
                Text(seen.decision, style=colour),
                Text(seen.remaining),
            )
        return grid


def screen() -> Lines | Table:
    """The one that fits stdout."""
    return Table() if sys.stdout.isatty() else Lines()
