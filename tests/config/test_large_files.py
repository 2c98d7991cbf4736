"""The work for a plan file grows with its length, not with plans times routes.

It is counted in lines of Python that run, so that no clock decides.
"""

import sys
from types import FrameType
from typing import Any

import pytest

from sidecar.config.loading import parse
from tests.support.large_plan_files import plan_file

SHAPES = ("flat", "chain", "features", "critical")


def lines_run(text: bytes) -> int:
    """How many lines of the package run to read the file."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if "/sidecar/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parse(text, "plans.yaml")
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("shape", SHAPES)
def test_16_large_plan_files_take_minutes(shape: str) -> None:
    small, large = lines_run(plan_file(20, 40, shape)), lines_run(plan_file(80, 160, shape))
    assert large < 4.2 * small, f"{small:,} and {large:,} lines for 4 times the file"


@pytest.mark.parametrize("shape", SHAPES)
def test_each_plan_and_route_has_its_entitlement(shape: str) -> None:
    book = parse(plan_file(6, 12, shape), "plans.yaml")
    assert len(book.entitlements) == 6 * 12
    for (plan, route), found in book.entitlements.items():
        assert (found.plan, found.route.id) == (book.plans[plan], route)
        assert found is book.entitlements.get((plan, route))


def test_the_features_of_a_plan_decide_what_is_missing_and_still_available() -> None:
    book = parse(plan_file(6, 12, "features"), "plans.yaml")
    lacking, having = book.entitlements["p2", "r0"], book.entitlements["p3", "r0"]
    assert (lacking.missing, lacking.missing_in) == (("f0",), "p3")
    assert (having.missing, having.missing_in) == ((), None)
    assert book.entitlements["p4", "r0"].missing_in == "p5"
    free = parse(plan_file(2, 40, "critical"), "plans.yaml").entitlements["p0", "r0"]
    numbers = range(1, 16, 2)  # the first 8 that cost nothing
    assert free.still_available == tuple(
        f"{'POST' if number % 4 == 1 else 'DELETE'} /v1/{{org}}/r{number}/**" for number in numbers
    )


def test_unknown_plans_and_routes_have_no_entitlement() -> None:
    entitlements = parse(plan_file(1, 1), "plans.yaml").entitlements
    assert entitlements.get(("p0", "other")) is None
    assert entitlements.get(("other", "r0")) is None
    with pytest.raises(KeyError):
        entitlements["other", "r0"]
