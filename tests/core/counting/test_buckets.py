"""A bucket drains by the time that passed: no more when asked often, and never backwards."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.counting.counters import State
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.limits import drained
from sidecar.core.kinds import MICRO, RateLimit

FULL = 3 * MICRO


def a_bucket(span_us: int) -> RateLimit:
    """A bucket of 3 units that gains one micro-unit in `span_us`."""
    return RateLimit("slow", "requests", 1, span_us * MICRO, 3, (1, span_us))


@given(st.integers(1, 1_000), st.lists(st.integers(0, 5_000), max_size=50))
def test_a_bucket_that_is_asked_often_drains_as_one_that_is_asked_once(
    span_us: int, steps: list[int]
) -> None:
    limit = a_bucket(span_us)
    state, now_us = State(FULL, 1, counts=counts_of(limit)), 1
    for step in steps:
        now_us += step
        state = drained(limit, state, now_us)
    assert state.used == FULL - sum(steps) // span_us


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_I8_a_clock_that_steps_back_changes_no_bucket(since_us: int, back_us: int) -> None:
    limit = a_bucket(7)
    state = State(FULL, since_us, counts=counts_of(limit))
    assert drained(limit, state, since_us - back_us) == state
