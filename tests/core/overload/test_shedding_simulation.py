"""Simulations of shedding with a queueing upstream, as docs/explanation/overload.md describes it.

Each seed gives the same run on every machine.
"""

import statistics
from math import inf

import pytest

from sidecar.core.model import RequestClass
from sidecar.core.overload.adaptive_limit import CALM_S
from tests.support.overloaded_api import Kind, World, a_route

CRITICAL, STANDARD, DEFERRABLE = RequestClass
STATUS, ITEMS, EXPORT = (a_route(str(name), name) for name in RequestClass)
REPORT = a_route("report", STANDARD)

EVEN = [Kind(STATUS, 0.1, 0.05), Kind(ITEMS, 0.5, 0.05), Kind(EXPORT, 0.4, 0.05)]
MIXED = [  # a fifth of the requests take twenty times as long as the others
    Kind(STATUS, 0.1, 0.02),
    Kind(ITEMS, 0.5, 0.02),
    Kind(EXPORT, 0.2, 0.02),
    Kind(REPORT, 0.2, 0.4),
]
ALL = (EVEN, MIXED)
SEEDS = (1, 2)
SETTLED = 8.0  # seconds from the start of an overload until its first queue is empty


def ended(world: World, load: float, seconds: float = 30.0) -> tuple[float, float]:
    """Run so long under such a load, and return the start and the end."""
    start = world.now
    world.run(seconds, load)
    return start, world.now


def no_limit(world: World, start: float, end: float) -> bool:
    return set(world.limits_between(start, end)) == {inf}


@pytest.mark.parametrize("kinds", ALL, ids=["even", "mixed"])
@pytest.mark.parametrize(("servers", "seed"), [(20, 1), (20, 2), (20, 3), (60, 4)])
def test_nothing_is_shed_below_the_capacity(kinds: list[Kind], servers: int, seed: int) -> None:
    world = World(kinds, servers=servers, seed=seed)
    for load in (0.3, 0.7, 0.5, 0.7):
        ended(world, load)
    assert not world.shed
    assert no_limit(world, 0, world.now)


@pytest.mark.parametrize("load", [2.0, 3.0])
@pytest.mark.parametrize("kinds", ALL, ids=["even", "mixed"])
@pytest.mark.parametrize("seed", SEEDS)
def test_in_an_overload_the_upstream_stays_busy_and_critical_requests_come_first(
    kinds: list[Kind], load: float, seed: int
) -> None:
    world = World(kinds, seed=seed)
    ended(world, 0.5)
    begun, end = ended(world, load, 60.0)
    steady = begun + SETTLED
    assert world.work(begun, end) > 0.9
    assert world.shed_share(0, end, CRITICAL) == 0
    assert world.shed_share(steady, end, DEFERRABLE) > world.shed_share(steady, end, STANDARD) + 0.2
    # Alone they take 20 or 50 ms; the queue of other requests before them is bounded.
    seconds = sorted(one.seconds for one in world.answered(steady, end, CRITICAL))
    assert statistics.median(seconds) < 0.25
    assert seconds[len(seconds) * 99 // 100] < 0.75


@pytest.mark.parametrize("kinds", ALL, ids=["even", "mixed"])
@pytest.mark.parametrize("seed", SEEDS)
def test_standard_requests_are_not_shed_while_shedding_deferrable_ones_is_enough(
    kinds: list[Kind], seed: int
) -> None:
    world = World([*kinds[:-1], Kind(EXPORT, 1.0, 0.05)], seed=seed)
    ended(world, 0.5)
    begun, end = ended(world, 1.4, 60.0)
    steady = begun + SETTLED
    assert world.shed_share(steady, end, DEFERRABLE) > 0.3
    assert world.shed_share(steady, end, STANDARD) < 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_responses_are_slow_only_for_a_short_time(seed: int) -> None:
    world = World(EVEN, seed=seed)
    ended(world, 0.5)
    begun, end = ended(world, 3.0, 60.0)
    seconds = [one.seconds for one in world.answered(begun + SETTLED, end)]
    assert statistics.mean(seconds) < 0.25  # without a limit, 256 connections to 20 servers: 0.64


@pytest.mark.parametrize("load", [2.0, 3.0])
@pytest.mark.parametrize("kinds", ALL, ids=["even", "mixed"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_limit_does_not_oscillate(kinds: list[Kind], load: float, seed: int) -> None:
    world = World(kinds, seed=seed)
    ended(world, 0.5)
    begun, end = ended(world, load, 60.0)
    limits = world.limits_between(begun + SETTLED, end)
    assert inf not in limits
    assert statistics.pstdev(limits) < 0.2 * statistics.mean(limits)
    assert max(limits) < 2.5 * min(limits)


@pytest.mark.parametrize("kinds", ALL, ids=["even", "mixed"])
@pytest.mark.parametrize("seed", SEEDS)
def test_shedding_ends_soon_after_the_overload(kinds: list[Kind], seed: int) -> None:
    world = World(kinds, seed=seed)
    ended(world, 0.5)
    ended(world, 3.0)
    begun, end = ended(world, 0.5)
    assert world.shed_share(begun + 2, end, STANDARD) == 0
    assert world.shed_share(begun + 2, end, DEFERRABLE) < 0.02
    assert no_limit(world, begun + CALM_S + 5, end)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_minimum_protects_a_small_upstream(seed: int) -> None:
    world = World(EVEN, servers=4, minimum=4, seed=seed)
    ended(world, 0.5)
    begun, end = ended(world, 3.0, 60.0)
    assert world.work(begun, end) > 0.9
    assert world.shed_share(0, end, CRITICAL) == 0
    seconds = [one.seconds for one in world.answered(begun + SETTLED, end, CRITICAL)]
    assert statistics.median(seconds) < 0.25


@pytest.mark.parametrize("seed", SEEDS)
def test_another_mix_of_fast_and_slow_requests_is_not_an_overload(seed: int) -> None:
    world = World(MIXED, servers=100, seed=seed)
    ended(world, 0.6)
    world.kinds = [*MIXED[:-1], Kind(REPORT, 4.0, 0.4)]
    ended(world, 0.6)
    world.kinds = MIXED
    ended(world, 0.6)
    assert not world.shed


@pytest.mark.parametrize("seed", SEEDS)
def test_very_different_lengths_on_one_route_are_not_an_overload(seed: int) -> None:
    # One route takes 5 ms or 1 s: at first one of 20 requests is long, then every third.
    world = World([Kind(ITEMS, 0.95, 0.005), Kind(ITEMS, 0.05, 1.0)], servers=100, seed=seed)
    ended(world, 0.6)
    world.kinds = [Kind(ITEMS, 0.67, 0.005), Kind(ITEMS, 0.33, 1.0)]
    ended(world, 0.6)
    assert not world.shed


@pytest.mark.parametrize(
    ("seconds", "load", "times"), [(0.05, 0.25, 3.0), (0.2, 0.25, 3.0), (0.05, 0.12, 6.0)]
)
@pytest.mark.parametrize("seed", SEEDS)
def test_an_upstream_that_becomes_slower_for_good_is_not_starved(
    seconds: float, load: float, times: float, seed: int
) -> None:
    kinds = [kind._replace(seconds=seconds) for kind in EVEN]
    world = World(kinds, servers=100, seed=seed, slower=lambda now: times if now >= 30 else 1.0)
    ended(world, load)
    ended(world, load, 90.0)  # 72 or 75 in flight, of 100 servers
    assert all(30 <= when < 70 for when, _ in world.shed)
    assert no_limit(world, 70, world.now)
    assert world.work(75, world.now) == pytest.approx(load, rel=0.15)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slower_upstream_with_few_requests_in_flight_sheds_none(seed: int) -> None:
    world = World(EVEN, servers=20, seed=seed, slower=lambda now: 3.0 if now >= 30 else 1.0)
    ended(world, 0.1)
    ended(world, 0.1, 120.0)
    assert not world.shed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slower_upstream_can_still_be_overloaded(seed: int) -> None:
    world = World(EVEN, seed=seed, slower=lambda now: 2.0 if now >= 60 else 1.0)
    ended(world, 0.5)
    begun, end = ended(world, 2.0, 120.0)
    assert world.work(begun, 60) > 0.9
    assert world.work(70, end) > 0.45  # its whole capacity
    assert world.shed_share(0, end, CRITICAL) == 0
    seconds = [one.seconds for one in world.answered(80, end, CRITICAL)]
    assert statistics.median(seconds) < 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pause_of_the_upstream_has_no_lasting_effect(seed: int) -> None:
    # For 1 s everything takes twenty times as long, so the requests of 1 s queue.
    world = World(EVEN, seed=seed, slower=lambda now: 20.0 if 30 <= now < 31 else 1.0)
    ended(world, 0.5)
    ended(world, 0.5, 60.0)
    assert all(30 <= when < 42 for when, _ in world.shed)
    assert no_limit(world, 55, world.now)


def test_critical_requests_alone_are_never_shed() -> None:
    world = World([Kind(STATUS, 1.0, 0.05)])
    ended(world, 0.5)
    ended(world, 3.0)
    assert not world.shed
