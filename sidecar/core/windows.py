"""Where a quota's period begins and ends for an account, and its neighbours."""

from datetime import date

from sidecar.core.limits import Window
from sidecar.core.model import Account, PeriodUnit, QuotaLimit
from sidecar.core.periods import bounds


def window_at(limit: QuotaLimit, account: Account, now_us: int) -> Window:
    """The period that holds `now_us`, and where its neighbours begin and end."""
    return window_of(limit.period, account.timezone, account.anchor, now_us)


def window_of(period: PeriodUnit, timezone: str, anchor: date | None, now_us: int) -> Window:
    """The same for a calendar as such: many accounts share one."""
    start, end, after = bounds(period, timezone, anchor, now_us)
    before = bounds(period, timezone, anchor, start - 1)[0]
    return Window(start, end, after, before)
