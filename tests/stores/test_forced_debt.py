"""Requests of critical routes do not put a rate so deep in debt that others wait behind them."""

from collections.abc import Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.core.answers import Hold
from sidecar.core.kinds import MICRO, RateLimit
from sidecar.core.model import Claim
from tests.support.stores.account_replay import Both

BURST = 10
RATE = RateLimit("r0", "requests", 5, MICRO, BURST, (5, 1))
STEPS = st.lists(
    st.tuples(st.sampled_from(["forced", "hold"]), st.integers(1, 8), st.integers(0, 300))
    | st.tuples(st.just("standard"), st.integers(1, 4), st.just(0))
    | st.tuples(st.just("wait"), st.integers(1, 3 * MICRO), st.just(0)),
    min_size=5,
    max_size=60,
)


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=False) as connection:
        yield connection


def used(both: Both) -> int:
    state = both.counters().get("r/r0")
    return 0 if state is None else state.used


def grants_one(both: Both) -> bool:
    return both.peek([Claim(RATE, 1, False)]).granted


def test_a_flood_of_critical_requests_costs_others_one_burst(client: redis.Redis) -> None:
    both = Both(client)
    for _ in range(1_000):
        assert both.reserve([Claim(RATE, 1, True)]).granted
    assert used(both) == 2 * BURST * MICRO
    both.now += BURST // 5 * MICRO  # until one burst has come back
    assert not grants_one(both)
    both.now += MICRO // 5
    assert grants_one(both)


def test_I1_a_refund_takes_back_only_what_was_counted(client: redis.Redis) -> None:
    both = Both(client)
    forced = [Claim(RATE, 1, True)]
    for number in range(50):
        assert both.reserve(forced, Hold(f"h{number}", 60 * MICRO)).granted
    for number in range(50):
        both.settle(f"h{number}", [Claim(RATE, 0, True)])
    assert used(both) == 0
    for _ in range(50):
        both.reserve(forced)
    assert both.reserve(forced, Hold("last", 60 * MICRO)).granted
    both.settle("last", [Claim(RATE, 0, True)])
    assert used(both) == 2 * BURST * MICRO, "it was not counted, so nothing comes back"


def test_a_late_cost_of_a_critical_request_is_bounded_too(client: redis.Redis) -> None:
    both = Both(client)
    assert both.reserve([Claim(RATE, 1, True)], Hold("h", 60 * MICRO)).granted
    both.settle("h", [Claim(RATE, 1_000_000, True)])
    assert used(both) == 2 * BURST * MICRO


def test_a_late_cost_of_a_standard_request_is_debt(client: redis.Redis) -> None:
    both = Both(client)
    assert both.reserve([Claim(RATE, 1, False)], Hold("h", 60 * MICRO)).granted
    both.settle("h", [Claim(RATE, 1_000, False)])
    assert used(both) == 1_000 * MICRO


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_the_debt_of_forced_claims_is_at_most_one_burst(
    client: redis.Redis, steps: list[tuple[str, int, int]]
) -> None:
    both = Both(client)
    for number, (what, units, actual) in enumerate(steps):
        if what == "wait":
            both.now += units
        elif what == "hold":
            assert both.reserve([Claim(RATE, units, True)], Hold(f"h{number}", MICRO)).granted
            both.settle(f"h{number}", [Claim(RATE, actual, True)])
        else:
            both.reserve([Claim(RATE, units, what == "forced")])
        assert used(both) <= 2 * BURST * MICRO
