"""The decisions that the demo shows: a live table on a terminal, plain lines elsewhere."""

import asyncio
import sys
from collections import deque
from typing import Any, Final, Protocol

ROWS: Final = 12
COLUMNS: Final = ("account", "route", "class", "decision", "remaining")
_REDRAW_EVERY_S: Final = 0.25


class ShownDecision(Protocol):
    """One decision, as the gate reports it."""

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


class LineView:
    """Column headings, then one line per decision, for output that is not a terminal."""

    def __init__(self) -> None:
        self._headed = False

    def show(self, decision: ShownDecision) -> None:
        """Print one decision, the first one below the headings."""
        if not self._headed:
            self._headed = True
            self._print(*COLUMNS)
        self._print(
            decision.account,
            decision.route,
            decision.request_class,
            decision.decision,
            decision.remaining,
        )

    @staticmethod
    def _print(account: str, route: str, request_class: str, decision: str, left: str) -> None:
        print(  # noqa: T201 - the output of the demo
            f"{account:<14} {route:<12} {request_class:<11} {decision:<24} {left}", flush=True
        )

    async def run_until(self, stopped: asyncio.Event) -> None:
        """Return when `stopped` is set."""
        await stopped.wait()


class TableView:
    """A table of the last decisions, redrawn at most four times a second."""

    def __init__(self) -> None:
        self._rows: deque[ShownDecision] = deque(maxlen=ROWS)
        self._total = 0
        self._drawn = -1

    def show(self, decision: ShownDecision) -> None:
        """Add one decision to the next drawing."""
        self._rows.append(decision)
        self._total += 1

    async def run_until(self, stopped: asyncio.Event) -> None:
        """Redraw the table until `stopped` is set."""
        from rich.live import Live

        with Live(self._drawing(), auto_refresh=False) as live:
            while not stopped.is_set():
                if self._drawn != self._total:
                    live.update(self._drawing(), refresh=True)
                try:
                    await asyncio.wait_for(stopped.wait(), _REDRAW_EVERY_S)
                except TimeoutError:
                    continue

    def _drawing(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        self._drawn = self._total
        table = Table(title=f"decisions so far: {self._total}", title_justify="left", min_width=76)
        for column in COLUMNS:
            table.add_column(column)
        for row in self._rows:
            colour = "green" if row.decision.startswith("allow") else "red"
            table.add_row(
                Text(row.account),
                Text(row.route),
                Text(row.request_class),
                Text(row.decision, style=colour),
                Text(row.remaining),
            )
        return table


def decision_view() -> LineView | TableView:
    """A table if stdout is a terminal, else lines."""
    return TableView() if sys.stdout.isatty() else LineView()
