"""Periods, as a film: the instant, the zone, and the window it falls in."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.periods import bounds

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
        ("cycle", "America/New_York", "2026-01-15", "2026-11-15T04:59:59Z",
         "2026-10-15T04:00:00Z", "2026-11-15T05:00:00Z"),
    ],
)  # fmt: skip
def test_an_instant_falls_into_its_window(
    period: str, zone: str, anchor: str | None, now: str, start: str, end: str
) -> None:
    day = date.fromisoformat(anchor) if anchor else None
    assert bounds(period, zone, day, us(now))[:2] == (us(start), us(end))  # type: ignore[arg-type]


@given(
    st.sampled_from(["hour", "day", "week", "month", "cycle"]),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Auckland"]),
    st.dates(date(2020, 1, 1), date(2040, 12, 31)),
    st.integers(us("2024-01-01T00:00:00Z"), us("2034-01-01T00:00:00Z")),
)
def test_periods_tile_time(period: str, zone: str, anchor: date, now: int) -> None:
    start, end, after = bounds(period, zone, anchor, now)  # type: ignore[arg-type]
    assert start <= now < end < after
    assert bounds(period, zone, anchor, start)[:2] == (start, end)  # type: ignore[arg-type]
    assert bounds(period, zone, anchor, end)[:2] == (end, after)  # type: ignore[arg-type]
    assert bounds(period, zone, anchor, end - 1)[0] == start  # type: ignore[arg-type]
