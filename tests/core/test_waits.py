"""Whether a refused request waits: each limit must let it, for as long as all of them take."""

import pytest

from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, RateLimit
from sidecar.core.model import Claim
from sidecar.core.reasons import LimitStatus, Wait
from sidecar.core.waits import SLOT_POLL_US, wait_of
from tests.support.builders import a_quota, a_rate

NOW = 1_790_000_000 * MICRO
SLOT = ConcurrencyLimit("in-flight", 1, max_wait_us=5 * MICRO)


def a_patient_rate(max_wait_us: int, name: str = "per-second") -> RateLimit:
    return a_rate(5, id=name, max_wait_us=max_wait_us)


def status(limit: Limit, span_us: int | None) -> LimitStatus:
    """The status of a limit that a request fits after this span."""
    reset_us = None if span_us is None else NOW + span_us
    return LimitStatus(Claim(limit, 1, False), 5, 5, 0, reset_us)


@pytest.mark.parametrize(("span_us", "waits"), [(1, True), (2_000, True), (2_001, False)])
def test_a_wait_is_at_most_as_long_as_the_plan_allows(span_us: int, waits: bool) -> None:
    limit = a_patient_rate(2_000)
    expected = Wait(limit, span_us, 2_000) if waits else None
    assert wait_of([status(limit, span_us)], NOW) == expected


@pytest.mark.parametrize("patient_first", [False, True])
def test_of_several_limits_the_least_patience_counts(patient_first: bool) -> None:
    patient, hasty = a_patient_rate(9_000, "patient"), a_patient_rate(2_000, "hasty")
    limits = (patient, hasty) if patient_first else (hasty, patient)
    assert wait_of([status(one, 2_000) for one in limits], NOW) == Wait(limits[0], 2_000, 2_000)
    assert wait_of([status(one, 2_001) for one in limits], NOW) is None


def test_a_request_waits_for_the_latest_of_its_limits() -> None:
    slow, fast = a_patient_rate(9_000, "slow"), a_patient_rate(9_000, "fast")
    assert wait_of([status(slow, 7_000), status(fast, 3)], NOW) == Wait(slow, 7_000, 9_000)


def test_a_slot_is_tried_again_after_a_short_time_and_within_the_wait() -> None:
    assert wait_of([status(SLOT, None)], NOW) == Wait(SLOT, SLOT_POLL_US, 5 * MICRO)
    brief = ConcurrencyLimit("brief", 1, max_wait_us=7)
    assert wait_of([status(brief, None)], NOW) == Wait(brief, 7, 7)


@pytest.mark.parametrize(
    "violated",
    [
        [status(a_rate(5), 10)],
        [status(a_patient_rate(9_000), None)],
        [status(a_quota(5), 10)],
        [status(a_patient_rate(9_000), 10), status(a_rate(5, id="strict"), 10)],
    ],
    ids=["no wait", "never fits", "quota", "another without a wait"],
)
def test_a_request_does_not_wait_in_vain(violated: list[LimitStatus]) -> None:
    assert wait_of(violated, NOW) is None
