"""What counts as an overload, and when the limit starts and ends."""

from math import inf

import pytest

from sidecar.core.overload.adaptive_limit import CALM_S, MIN_SAMPLES, WINDOW_S
from tests.support.upstream_windows import NORMAL, SLOW, VERY_SLOW, Upstream


def test_three_slow_windows_in_a_row_are_an_overload() -> None:
    upstream = Upstream()
    for times in (SLOW, SLOW, NORMAL, SLOW, SLOW):
        assert upstream.window(times) == inf
    assert upstream.window(SLOW) < 100


def test_two_very_slow_windows_are_an_overload() -> None:
    upstream = Upstream()
    assert upstream.window(VERY_SLOW) == inf
    assert upstream.window(VERY_SLOW) < 100


@pytest.mark.parametrize(
    "times",
    [
        [0.39] * MIN_SAMPLES,  # less than twice the baseline
        [0.2] * 13 + [30.0] * 12,  # most responses are as fast as the baseline
        NORMAL,
    ],
)
def test_without_an_overload_there_is_never_a_limit(times: list[float]) -> None:
    upstream = Upstream()
    for _ in range(50):
        assert upstream.window(times) == inf


def test_fast_responses_may_get_slower_by_less_than_100_ms() -> None:
    upstream = Upstream(normal=0.001)
    for _ in range(50):
        assert upstream.window([0.09] * MIN_SAMPLES) == inf


def test_with_few_in_flight_nothing_is_suspected() -> None:
    upstream = Upstream()
    for _ in range(50):
        assert upstream.window(SLOW, waiting=19) == inf


def test_drops_are_an_overload_too() -> None:
    upstream = Upstream()
    assert upstream.window(NORMAL, drops=2) == inf  # less than a tenth
    assert upstream.window(NORMAL, drops=2) == inf
    upstream.window(NORMAL, drops=10)
    assert upstream.window(NORMAL, drops=10) == 90


def test_an_upstream_that_is_down_is_not_overloaded() -> None:
    upstream = Upstream()
    for _ in range(20):
        assert upstream.window([], drops=MIN_SAMPLES) == inf


def test_drops_that_continue_at_half_the_number_in_flight_have_another_cause() -> None:
    upstream = Upstream()
    limits: list[float] = []
    for _ in range(60):
        upstream.limit.on_shed(upstream.now)
        waiting = 100 if upstream.limit.value == inf else int(upstream.limit.value)
        limits.append(upstream.window([0.2] * 30, waiting=waiting, drops=30))
    assert min(limits) < 90
    assert limits[-20:] == [inf] * 20


def test_the_limit_ends_after_a_quiet_span_with_or_without_requests() -> None:
    upstream = Upstream()
    for _ in range(3):
        upstream.window(SLOW)
    upstream.limit.on_shed(upstream.now)
    assert not upstream.limit.lift_if_quiet(upstream.now + CALM_S - 0.1)
    assert upstream.limit.lift_if_quiet(upstream.now + CALM_S + 0.1)
    assert upstream.limit.value == inf


def test_a_client_that_gives_up_counts_as_slow_and_one_that_leaves_early_does_not() -> None:
    upstream = Upstream()
    for seconds in (0.1, 3.0):
        for _ in range(12 * MIN_SAMPLES):
            upstream.now += WINDOW_S / MIN_SAMPLES
            upstream.limit.peak = 100
            upstream.limit.on_client_gone("rest", seconds, 100, upstream.now)
        assert (upstream.limit.value < inf) == (seconds > 1)
