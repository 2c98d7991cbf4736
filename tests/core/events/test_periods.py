"""An event names the period in which each quota counted it, as the store's window has it."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.answers import QuotaDetail
from sidecar.core.events.periods import periods_of, starts_of
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Claim
from sidecar.core.periods import window_at
from tests.support.builders import a_quota, a_rate

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CALENDARS = st.sampled_from(["hour", "day", "week", "month", "cycle", "90s", "86400s"])
# 45 minutes apart from whole hours, DST that skips midnight, a day that was skipped
ZONES = st.sampled_from(["UTC", "America/New_York", "Asia/Kathmandu", "America/Havana",
                         "Pacific/Apia", "Australia/Lord_Howe"])  # fmt: skip


def at_us(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


@given(
    period=CALENDARS, zone=ZONES, anchor=st.none() | st.dates(date(2020, 1, 1), date(2026, 12, 31)),
    now_us=st.integers(at_us("2011-06-01T00:00:00Z"), at_us("2031-06-01T00:00:00Z")),
)  # fmt: skip
def test_an_event_is_in_the_period_that_counted_it(
    period: str, zone: str, anchor: date | None, now_us: int
) -> None:
    account = Account("acme", "pro", zone, anchor)
    limit = a_quota(period=period)
    window = window_at(limit, account, now_us)
    [(name, interval)] = periods_of([Claim(limit, 1, False)], (window.end,), account).items()
    start, end = map(at_us, interval.split("/"))
    assert (name, start, end) == ("monthly", window.start, window.end)
    assert start <= now_us < end


def test_only_quotas_have_periods() -> None:
    account = Account("acme", "pro")
    end = at_us("2026-12-01T00:00:00Z")
    claims: list[Any] = [Claim(a_rate(), 1, False), Claim(a_quota(per="key"), 1, False)]
    assert periods_of(claims, (0, end), account) == {
        "monthly": "2026-11-01T00:00:00Z/2026-12-01T00:00:00Z"
    }
    assert periods_of(claims, (), account) == {}


@given(
    ends=st.lists(st.integers(1, 10**9), min_size=2, max_size=2),
    starts=st.lists(st.none() | st.integers(0, 10**6), min_size=2, max_size=2),
)
def test_14_a_period_whose_bounds_have_moved_has_its_own_start(
    ends: list[int], starts: list[int | None]
) -> None:
    account = Account("acme", "pro")
    claims = [Claim(a_quota(id=name, period="day"), 1, False) for name in ("a", "b")]
    began = [0 if one is None else one + 1 for one in starts]
    details = [QuotaDetail(started_us=one * MICRO) for one in began]
    moved = starts_of(details)
    assert (moved == ()) == (not any(began))
    found = periods_of(claims, [one * MICRO for one in ends], account, moved)
    usual = periods_of(claims, [one * MICRO for one in ends], account)
    for name, start in zip("ab", began, strict=True):
        if start:
            assert at_us(found[name].split("/")[0]) == start * MICRO
        else:
            assert found[name] == usual[name]


def test_a_period_that_starts_within_a_second_is_named_by_that_second() -> None:
    account, end = Account("acme", "pro"), at_us("2026-12-01T00:00:00Z")
    start = at_us("2026-11-29T06:00:07Z") + 250_000
    claims = [Claim(a_quota(), 1, False)]
    assert periods_of(claims, (end,), account, (start,)) == {
        "monthly": "2026-11-29T06:00:07Z/2026-12-01T00:00:00Z"
    }
