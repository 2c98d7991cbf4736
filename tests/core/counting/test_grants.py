"""Grants pay after the plan's own units, in their order, and get units back the other way."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.counting.counters import State
from sidecar.core.counting.limits import Grant, burn, give_back
from sidecar.core.kinds import QuotaLimit

QUOTA = QuotaLimit("monthly", "requests", 10, "month", 10)


def grants(*used: int) -> list[Grant]:
    """Grants of 5 units, of which so many are used; the first one ends first."""
    return [Grant(f"g{at}", "q/monthly", 5, 100 + at, used=one) for at, one in enumerate(used)]


def test_units_return_to_the_grant_that_was_used_last() -> None:
    state, after, returned = give_back(10, State(10), grants(5, 3), 4)
    assert (state.used, after, returned) == (10, grants(4, 0), 4)
    state, after, returned = give_back(10, State(10), grants(5, 3), 9)
    assert (state.used, after, returned) == (9, grants(0, 0), 8)


@given(st.integers(0, 10), st.integers(0, 40))
def test_what_was_burned_and_given_back_leaves_no_trace(used: int, cost: int) -> None:
    before = grants(0, 0)
    state, between, burned = burn(QUOTA, State(used), before, cost)
    assert burned == sum(one.used for one in between) == min(10, max(0, cost - (10 - used)))
    state, after, returned = give_back(10, state, between, cost)
    assert (state, after, returned) == (State(used), before, burned)
