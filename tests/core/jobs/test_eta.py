"""The estimated start of a job, with jobs before it."""

import pytest

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.jobs.eta import MAX_ETA_US, eta_us
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Claim

NOW = 1_796_083_200 * MICRO
RESET = NOW + 3_600 * MICRO
RATE = RateLimit("rate", "requests", 5, MICRO, 10, (5, 1))
QUOTA = QuotaLimit("daily", "requests", 10, "day", 10)
SLOTS = ConcurrencyLimit("slots", 1)
DAY_US = 25 * 3_600 * MICRO  # the longest day


def eta(limit: Limit, used: int, ahead: int, cost: int = 1, **more: object) -> int | None:
    """Return the span from now, in µs."""
    ends = RESET if isinstance(limit, QuotaLimit) else 0
    answer = Answer(False, NOW, (used,), (ends,), **more)  # type: ignore[arg-type]
    at = eta_us((Claim(limit, cost, False),), answer, ahead)
    return None if at is None else at - NOW


@pytest.mark.parametrize(
    ("used", "ahead", "cost", "expected"),
    [
        (0, 0, 1, 0),
        (10 * MICRO, 0, 1, MICRO // 5),
        (10 * MICRO, 4, 1, MICRO),
        (10 * MICRO, 4, 2, 2 * MICRO),
        (0, 9, 1, 0),
        (0, 10, 1, MICRO // 5),
        (0, 0, 11, None),
    ],
)
def test_jobs_start_as_a_rate_refills(
    used: int, ahead: int, cost: int, expected: int | None
) -> None:
    assert eta(RATE, used, ahead, cost) == expected


@pytest.mark.parametrize(
    ("used", "ahead", "cost", "periods"),
    [(10, 0, 1, 0), (10, 9, 1, 0), (10, 10, 1, 1), (10, 20, 1, 2), (9, 1, 1, 0), (9, 11, 1, 1),
     (4, 1, 4, 0), (4, 2, 4, 0), (4, 3, 4, 1), (12, 0, 1, 0)],
)  # fmt: skip
def test_each_period_of_a_quota_starts_what_fits(
    used: int, ahead: int, cost: int, periods: int
) -> None:
    assert eta(QUOTA, used, ahead, cost) == RESET - NOW + periods * DAY_US


def test_the_first_jobs_use_the_rest_of_the_quota_and_of_packs() -> None:
    assert eta(QUOTA, 9, 0) == 0
    assert eta(QUOTA, 10, 1, details=(QuotaDetail(left=2),)) == 0
    assert eta(QUOTA, 10, 2, details=(QuotaDetail(left=2),)) == RESET - NOW
    assert eta(QUOTA, 0, 0, cost=11) is None
    assert eta(QUOTA, 10, 10**9) == MAX_ETA_US


def test_slots_count_as_free_and_the_latest_limit_decides() -> None:
    assert eta(SLOTS, 1, 5) == 0
    claims = (Claim(RATE, 1, False), Claim(QUOTA, 1, False), Claim(SLOTS, 1, False))
    answer = Answer(False, NOW, (10 * MICRO, 10, 1), (0, RESET, 0))
    assert eta_us(claims, answer, 0) == RESET
    forced = (Claim(QUOTA, 1, True),)
    assert eta_us(forced, Answer(True, NOW, (10,), (RESET,)), 0) == NOW
