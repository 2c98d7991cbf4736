"""RecordedRequest calls through another plan file, account by account."""

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

CALENDARS: Final = 10_000


class Calendars:
    """Finds periods, and remembers the last one of each calendar."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str, date | None], Window] = {}

    def window(self, period: str, timezone: str, anchor: date | None, at: int) -> Window:
        """The period that holds `at`, and its neighbours."""
        name = period, timezone, anchor
        window = self._windows.get(name)
        if window is None or not window.start <= at < window.end:
            if len(self._windows) >= CALENDARS:
                self._windows.clear()
            window = self._windows[name] = window_of(period, timezone, anchor, at)
        return window


def replay(calls: Iterable[RecordedRequest], book: PlanBook) -> Iterator[AccountReport]:
    """A report for each account, in the order of their ids. `calls` as `in_order` gives them.

    An account that the file has is on the plan that it has there. Others are on the plan that each
    event names, and their calendar is UTC's.
    """
    windows = Calendars().window
    for name, events in groupby(calls, key=itemgetter(0)):
        known = book.accounts.get(name)
        account = known or Account(name, "")
        one = Replay(book, account, windows, follow=known is None)
        take = one.call
        for event in events:
            take(event)
        yield one.done()
