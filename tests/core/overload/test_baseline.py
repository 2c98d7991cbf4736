"""The baseline of each route."""

import pytest

from sidecar.core.overload.baseline import Baseline


def test_each_route_has_its_own_baseline_and_unknown_ones_have_none() -> None:
    baseline = Baseline()
    for number in range(100):
        baseline.learn("fast", 0.01, number, calm=True)
        baseline.learn("slow", 2.0, number, calm=True)
    assert baseline.of("fast") == pytest.approx(0.01)
    assert baseline.of("slow") == pytest.approx(2.0)
    assert baseline.of("other") == 0.0
    baseline.retain_routes({"slow"})
    assert baseline.of("fast") == 0.0


def test_slower_responses_raise_the_baseline_slowly_and_never_under_suspicion() -> None:
    baseline = Baseline()
    for number in range(400):
        baseline.learn("rest", 0.1, number / 10, calm=True)
    for number in range(300):
        baseline.learn("rest", 0.3, 40 + number / 10, calm=False)
    assert baseline.of("rest") == pytest.approx(0.1)
    for number in range(300):
        baseline.learn("rest", 0.3, 70 + number / 10, calm=True)
    assert 0.1 < baseline.of("rest") < 0.13
    for number in range(1200):
        baseline.learn("rest", 0.05, 100 + number / 10, calm=False)
    assert baseline.of("rest") < 0.06


def test_responses_from_before_another_speed_do_not_count() -> None:
    baseline = Baseline()
    for number in range(30):  # 20 of them are not in a mean yet
        baseline.learn("rest", 0.1, number / 10, calm=True)
    baseline.scale(3.0)
    assert baseline.of("rest") == pytest.approx(0.3)
    for number in range(30):
        baseline.learn("rest", 0.3, 3 + number / 10, calm=True)
    assert baseline.of("rest") == pytest.approx(0.3)
