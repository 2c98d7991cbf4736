"""The states of the adaptive limit: each row of the table is reached, and no other transition."""

from collections.abc import Callable
from math import inf

import pytest

from sidecar.core.overload.adaptive_limit import (
    CALM_S,
    MIN_SAMPLES,
    TRANSITIONS,
    WINDOW_S,
    AdaptiveLimit,
    OverloadState,
    Trigger,
)
from tests.support.upstream_windows import NORMAL, SLOW, VERY_SLOW, Upstream

TOO_MANY = 1_000  # windows


def suspected() -> Upstream:
    upstream = Upstream()
    upstream.window(SLOW)
    assert upstream.limit.state is OverloadState.SUSPECTED
    return upstream


def limiting(times: list[float] = VERY_SLOW) -> Upstream:
    upstream = Upstream()
    for _ in range(2):
        upstream.window(times)
    assert upstream.limit.state is OverloadState.LIMITING
    return upstream


def pressed(upstream: Upstream, seconds: Callable[[float], float]) -> None:
    """Send a window at the limit, with shed requests; `seconds` is the time at a number in flight.

    The number of responses follows from Little's law.
    """
    limit = upstream.limit
    in_flight = 100.0 if limit.value == inf else limit.value
    took = seconds(in_flight)
    count = max(MIN_SAMPLES, int(in_flight * WINDOW_S / took))
    limit.on_shed(upstream.now)
    upstream.window([took] * count, waiting=int(in_flight))


def until_change(upstream: Upstream, seconds: Callable[[float], float]) -> OverloadState:
    """Send pressed windows until the state changes, and return the new one."""
    before = upstream.limit.state
    for _ in range(TOO_MANY):
        pressed(upstream, seconds)
        if upstream.limit.state is not before:
            return upstream.limit.state
    raise AssertionError(f"still {before}")


def always_slow(_in_flight: float) -> float:
    return 1.0


def queueing(in_flight: float) -> float:
    """An upstream so small that the minimum limit still overloads it."""
    return in_flight / 20


def probing() -> Upstream:
    """Start at the minimum, so the limit cannot shrink and be compared."""
    upstream = Upstream()
    for _ in range(2):
        upstream.window([20.0] * MIN_SAMPLES, waiting=20)
    assert upstream.limit.value == 20
    assert until_change(upstream, always_slow) is OverloadState.PROBING
    assert upstream.limit.value == 30
    return upstream


def test_an_overloaded_window_is_suspected() -> None:
    upstream = Upstream()
    assert upstream.limit.state is OverloadState.CALM
    assert upstream.window(SLOW) == inf
    assert upstream.limit.state is OverloadState.SUSPECTED


def test_a_healthy_window_ends_the_suspicion() -> None:
    upstream = suspected()
    assert upstream.window(NORMAL) == inf
    assert upstream.limit.state is OverloadState.CALM


def test_overloaded_windows_in_a_row_confirm_the_suspicion() -> None:
    upstream = suspected()
    assert upstream.window(SLOW) == inf
    assert upstream.limit.state is OverloadState.SUSPECTED
    assert upstream.window(SLOW) < inf
    assert upstream.limit.state is OverloadState.LIMITING


def test_a_quiet_span_ends_the_limit() -> None:
    upstream = limiting()
    assert not upstream.limit.lift_if_quiet(upstream.now)
    assert upstream.limit.state is OverloadState.LIMITING
    assert upstream.limit.lift_if_quiet(upstream.now + CALM_S)
    assert (upstream.limit.state, upstream.limit.value) == (OverloadState.CALM, inf)


def test_a_limit_without_effect_is_given_up() -> None:
    upstream = limiting([1.0] * 4 * MIN_SAMPLES)
    assert upstream.limit.value > 40  # enough above the minimum to compare
    assert until_change(upstream, always_slow) is OverloadState.CALM
    assert upstream.limit.value == inf
    assert upstream.limit._baseline.of("rest") == pytest.approx(1.0, rel=0.2)


def test_a_limit_that_is_stuck_at_the_minimum_is_probed() -> None:
    assert probing().limit.state is OverloadState.PROBING


def test_a_probe_without_effect_ends_the_limit() -> None:
    upstream = probing()
    assert until_change(upstream, always_slow) is OverloadState.CALM
    assert upstream.limit.value == inf


def test_a_probe_with_effect_returns_to_the_minimum() -> None:
    upstream = probing()
    assert until_change(upstream, queueing) is OverloadState.LIMITING
    assert upstream.limit.value == 20


def test_a_quiet_span_ends_a_probe() -> None:
    upstream = probing()
    assert upstream.limit.lift_if_quiet(upstream.now + CALM_S)
    assert (upstream.limit.state, upstream.limit.value) == (OverloadState.CALM, inf)


@pytest.mark.parametrize("state", OverloadState)
@pytest.mark.parametrize("trigger", Trigger)
def test_only_the_transitions_of_the_table_are_possible(
    state: OverloadState, trigger: Trigger
) -> None:
    limit = AdaptiveLimit(20)
    limit.state = state
    if (state, trigger) in TRANSITIONS:
        limit._fire(trigger)
        assert limit.state is TRANSITIONS[state, trigger]
    else:
        with pytest.raises(KeyError):
            limit._fire(trigger)
        assert limit.state is state
