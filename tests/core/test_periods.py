"""Periods: an instant, a time zone, and the window of the instant."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.kinds import MICRO
from sidecar.core.periods import Window, at_instant, bounds, longest_s

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(text: str) -> int:
    return int((datetime.fromisoformat(text) - EPOCH) / timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("period", "zone", "anchor", "now", "start", "end"),
    [
        ("hour", "UTC", None, "2026-11-23T08:30:00Z", "2026-11-23T08:00:00Z",
         "2026-11-23T09:00:00Z"),
        ("hour", "Asia/Kolkata", None, "2026-11-23T08:45:00Z", "2026-11-23T08:30:00Z",
         "2026-11-23T09:30:00Z"),
        ("day", "America/New_York", None, "2026-11-01T12:00:00Z", "2026-11-01T04:00:00Z",
         "2026-11-02T05:00:00Z"),
        ("day", "America/New_York", None, "2026-03-08T12:00:00Z", "2026-03-08T05:00:00Z",
         "2026-03-09T04:00:00Z"),
        ("week", "UTC", None, "2026-11-22T23:59:59Z", "2026-11-16T00:00:00Z",
         "2026-11-23T00:00:00Z"),
        ("month", "UTC", None, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z",
         "2027-01-01T00:00:00Z"),
        ("month", "UTC", None, "2028-02-29T00:00:00Z", "2028-02-01T00:00:00Z",
         "2028-03-01T00:00:00Z"),
        ("cycle", "UTC", "2026-01-31", "2026-02-27T12:00:00Z", "2026-01-31T00:00:00Z",
         "2026-02-28T00:00:00Z"),
        ("cycle", "UTC", "2026-01-31", "2026-02-28T12:00:00Z", "2026-02-28T00:00:00Z",
         "2026-03-31T00:00:00Z"),
        ("cycle", "UTC", "2026-01-31", "2028-02-29T12:00:00Z", "2028-02-29T00:00:00Z",
         "2028-03-31T00:00:00Z"),
        # Seconds are counted from the epoch, whatever the zone.
        ("90s", "UTC", None, "1970-01-01T00:01:30Z", "1970-01-01T00:01:30Z",
         "1970-01-01T00:03:00Z"),
        ("604800s", "Asia/Kolkata", None, "2026-11-24T00:00:00Z", "2026-11-19T00:00:00Z",
         "2026-11-26T00:00:00Z"),
        # A month of 31 days is covered to its last second, a leap year to its 29 February.
        ("month", "UTC", None, "2026-01-31T23:59:59Z", "2026-01-01T00:00:00Z",
         "2026-02-01T00:00:00Z"),
        ("day", "UTC", None, "2028-02-29T12:00:00Z", "2028-02-29T00:00:00Z",
         "2028-03-01T00:00:00Z"),
        ("month", "Pacific/Auckland", None, "2026-04-30T11:59:59Z", "2026-03-31T11:00:00Z",
         "2026-04-30T12:00:00Z"),
        # An hour that daylight saving repeats is two hours, each of 60 minutes.
        ("hour", "America/New_York", None, "2026-11-01T05:30:00Z", "2026-11-01T05:00:00Z",
         "2026-11-01T06:00:00Z"),
        ("hour", "America/New_York", None, "2026-11-01T06:30:00Z", "2026-11-01T06:00:00Z",
         "2026-11-01T07:00:00Z"),
        # Half an hour of daylight saving.
        ("day", "Australia/Lord_Howe", None, "2026-10-03T20:00:00Z", "2026-10-03T13:30:00Z",
         "2026-10-04T13:00:00Z"),
        # A day that daylight saving begins at 01:00.
        ("day", "America/Santiago", None, "2026-09-06T12:00:00Z", "2026-09-06T04:00:00Z",
         "2026-09-07T03:00:00Z"),
        ("cycle", "UTC", "2026-01-30", "2026-03-01T00:00:00Z", "2026-02-28T00:00:00Z",
         "2026-03-30T00:00:00Z"),
        ("cycle", "UTC", "2026-05-31", "2026-06-30T00:00:00Z", "2026-06-30T00:00:00Z",
         "2026-07-31T00:00:00Z"),
        ("cycle", "America/New_York", "2026-01-15", "2026-11-15T04:59:59Z",
         "2026-10-15T04:00:00Z", "2026-11-15T05:00:00Z"),
    ],
)  # fmt: skip
def test_an_instant_is_in_its_window(
    period: str, zone: str, anchor: str | None, now: str, start: str, end: str
) -> None:
    day = date.fromisoformat(anchor) if anchor else None
    assert bounds(period, zone, day, us(now))[:2] == (us(start), us(end))  # type: ignore[arg-type]


@given(
    st.sampled_from(["hour", "day", "week", "month", "cycle", "90s", "86400s"]),
    st.sampled_from(
        ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland", "America/Santiago"]
    ),
    st.dates(date(2020, 1, 1), date(2040, 12, 31)),
    st.integers(us("2024-01-01T00:00:00Z"), us("2034-01-01T00:00:00Z")),
)
def test_periods_tile_time(period: str, zone: str, anchor: date, now: int) -> None:
    start, end, after = bounds(period, zone, anchor, now)  # type: ignore[arg-type]
    assert start <= now < end < after
    assert bounds(period, zone, anchor, start)[:2] == (start, end)  # type: ignore[arg-type]
    assert bounds(period, zone, anchor, end)[:2] == (end, after)  # type: ignore[arg-type]
    assert bounds(period, zone, anchor, end - 1)[0] == start  # type: ignore[arg-type]
    assert end - start <= longest_s(period) * MICRO


def test_the_end_of_a_window_is_in_the_next_period() -> None:
    window = Window(10, 20, 30, 0)
    assert at_instant(window, 19) == window
    assert at_instant(window, 20) == Window(20, 30, 0, 10)
