"""Quota periods: true calendar windows in the account's time zone, in µs of Redis time."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from sidecar.core.kinds import MICRO, PeriodLimit, PeriodUnit
from sidecar.core.model import Account, Pack

_HOUR: Final = 3_600 * MICRO
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PeriodLength(NamedTuple):
    """Seconds of a period: the usual number (months count as 30 days), and the highest one."""

    usual_s: int
    longest_s: int


# Days may have 25 hours.
PERIODS: Final = {
    "hour": PeriodLength(3_600, 3_600),
    "day": PeriodLength(86_400, 90_000),
    "week": PeriodLength(604_800, 608_400),
    "month": PeriodLength(2_592_000, 2_682_000),
    "cycle": PeriodLength(2_592_000, 2_682_000),
}


class Window(NamedTuple):
    """Bounds in µs of a period and of its neighbours."""

    start: int
    end: int
    after: int  # end of the next one
    before: int  # start of the one before


NO_PERIOD: Final = Window(0, 0, 0, 0)


def bounds(
    period: PeriodUnit, timezone: str, anchor: date | None, now_us: int
) -> tuple[int, int, int]:
    """Return the period that holds `now_us`: its start, its end, and the end of the next, in µs.

    A period holds its start and not its end, so periods tile time. Periods in seconds are counted
    from 1970-01-01T00:00:00Z. Days begin at local midnight, weeks on Monday. Cycles begin on the
    billing anchor's day of the month, or on the last day of a month that is too short (31 January,
    28 February, 31 March).
    """
    if period[-1] == "s":
        width = int(period[:-1]) * MICRO
        start = now_us - now_us % width
        return start, start + width, start + 2 * width
    zone = _zone(timezone)
    if period == "hour":
        offset = _offset_us(zone, now_us) % _HOUR
        start = now_us - (now_us + offset) % _HOUR
        return start, start + _HOUR, start + 2 * _HOUR
    today = (_EPOCH + timedelta(microseconds=now_us)).astimezone(zone).date()
    day = anchor.day if anchor is not None and period == "cycle" else 1
    first = _first_day(period, today, day)
    second = _next_day(period, first, day)
    third = _next_day(period, second, day)
    return midnight(first, timezone), midnight(second, timezone), midnight(third, timezone)


def local_date(timezone: str, now_us: int) -> date:
    """Return the date in a time zone."""
    return (_EPOCH + timedelta(microseconds=now_us)).astimezone(_zone(timezone)).date()


def midnight(day: date, timezone: str) -> int:
    """Return the first instant of a day in a time zone, in µs.

    If DST skips midnight, that is the instant to which it skips.
    """
    local = datetime(day.year, day.month, day.day, tzinfo=_zone(timezone))
    return int((local.astimezone(UTC) - _EPOCH) / timedelta(microseconds=1))


def usual_s(period: PeriodUnit) -> int:
    """Return the usual length of a period in seconds."""
    return int(period[:-1]) if period[-1] == "s" else PERIODS[period].usual_s


def longest_s(period: PeriodUnit) -> int:
    """Return the greatest length of a period in seconds."""
    return int(period[:-1]) if period[-1] == "s" else PERIODS[period].longest_s


@lru_cache(maxsize=512)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _offset_us(zone: ZoneInfo, now_us: int) -> int:
    offset = (_EPOCH + timedelta(microseconds=now_us)).astimezone(zone).utcoffset()
    return int((offset or timedelta()) / timedelta(microseconds=1))


def _first_day(period: PeriodUnit, today: date, day: int) -> date:
    if period == "day":
        return today
    if period == "week":
        return today - timedelta(days=today.weekday())
    this = _clamped(today.year, today.month, day)
    if this <= today:
        return this
    before = today.replace(day=1) - timedelta(days=1)
    return _clamped(before.year, before.month, day)


def _next_day(period: PeriodUnit, first: date, day: int) -> date:
    if period == "day":
        return first + timedelta(days=1)
    if period == "week":
        return first + timedelta(days=7)
    after = first.replace(day=1) + timedelta(days=32)
    return _clamped(after.year, after.month, day)


def _clamped(year: int, month: int, day: int) -> date:
    last = (date(year, month, 1) + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    return date(year, month, min(day, last.day))


def window_at(limit: PeriodLimit, account: Account, now_us: int) -> Window:
    """Return the period of an account's quota that holds `now_us`."""
    return window_of(limit.period, account.timezone, account.anchor, now_us)


def window_of(period: PeriodUnit, timezone: str, anchor: date | None, now_us: int) -> Window:
    """Return the period of a calendar, which many accounts can share, that holds `now_us`."""
    start, end, after = bounds(period, timezone, anchor, now_us)
    before = bounds(period, timezone, anchor, start - 1)[0]
    return Window(start, end, after, before)


def pack_end_us(pack: Pack, account: Account, now_us: int) -> int:
    """Return the end of a grant of this pack that is made now."""
    if isinstance(pack.lasts, int):
        return pack.lasts
    if pack.lasts[-1] == "s":
        return now_us + int(pack.lasts[:-1]) * MICRO
    return bounds(pack.lasts, account.timezone, account.anchor, now_us)[1]


def at_instant(window: Window, now_us: int) -> Window:
    """Return the window whose period holds `now_us`, this one or the next.

    Of the next one, `after` is 0: unknown.
    """
    if now_us < window.end:
        return window
    return Window(window.end, window.after, 0, window.start)


def end_of_running(since_us: int, end_us: int, window: Window) -> int:
    """Return the end of a counter's period, which is over if that is not after the present.

    The window holds the present instant. `end_us` is the end that was stored; 0: unknown. If the
    bounds of periods have moved since, the period ends at the first new bound at which it has run
    for half a period. If that bound has passed, it ends as stored.
    """
    if not end_us:
        return window.end if window.start <= since_us else window.start
    if end_us <= window.start or end_us in (window.end, window.after):
        return end_us
    half = (window.end - window.start) // 2
    return end_of_new(since_us, window) if since_us + half > window.start else end_us


def end_of_new(since_us: int, window: Window) -> int:
    """Return the end of a period that starts in the window, perhaps not at its start.

    It is the first bound at which the period has run for half a period.
    """
    half = (window.end - window.start) // 2
    return window.end if since_us + half <= window.end or not window.after else window.after
