"""Runs a backtest: replays recorded requests account by account."""

from collections.abc import Iterable, Iterator
from datetime import date
from itertools import groupby
from operator import itemgetter
from typing import Final

from sidecar.backtest.replay import Replay
from sidecar.backtest.report import AccountReport
from sidecar.core.events.read import RecordedRequest
from sidecar.core.model import Account, PlanBook
from sidecar.core.periods import Window, window_of

MAX_CACHED: Final = 10_000  # calendars


class PeriodCache:
    """Cache of the latest period of each calendar."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str, date | None], Window] = {}

    def window(self, period: str, timezone: str, anchor: date | None, at: int) -> Window:
        """Return the period that contains the instant `at` (µs), with its neighbours."""
        name = period, timezone, anchor
        window = self._windows.get(name)
        if window is None or not window.start <= at < window.end:
            if len(self._windows) >= MAX_CACHED:
                self._windows.clear()
            window = self._windows[name] = window_of(period, timezone, anchor, at)
        return window


def replay(requests: Iterable[RecordedRequest], book: PlanBook) -> Iterator[AccountReport]:
    """Yield a report for each account, in the order of their ids.

    `requests` must have the order of `sort.in_order`. An account in the plan file has its plan
    there. Any other account has the plan that each event names, and UTC as its time zone.
    """
    windows = PeriodCache().window
    for name, events in groupby(requests, key=itemgetter(0)):
        known = book.accounts.get(name)
        account = known or Account(name, "")
        account_replay = Replay(book, account, windows, follow=known is None)
        add = account_replay.add
        for event in events:
            add(event)
        yield account_replay.finish()
