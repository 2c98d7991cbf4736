"""Who is shed at which number in flight, what a place tells, and what is suspected of an API."""

from math import inf

import pytest

from sidecar.core.model import RequestClass
from sidecar.core.overload.adaptive_limit import CALLS, CALM_S, WINDOW_S, AdaptiveLimit
from sidecar.core.overload.baseline import UsualTimes
from sidecar.core.overload.shedder import InFlightRequest, Shedder
from tests.support.overloaded_api import a_route

CRITICAL, STANDARD, DEFERRABLE = (a_route(str(name), name) for name in RequestClass)


def entered(shedder: Shedder, calls: int, now: float = 0.0) -> list[InFlightRequest]:
    """So many standard calls, all let in."""
    places = [shedder.enter(STANDARD, now) for _ in range(calls)]
    assert None not in places
    return [place for place in places if place is not None]


@pytest.mark.parametrize(
    ("limit", "deferrable", "standard"), [(1, 1, 1), (3, 2, 3), (10, 7, 9), (100, 70, 90)]
)
def test_deferrable_is_shed_first_then_standard_and_never_critical(
    limit: int, deferrable: int, standard: int
) -> None:
    shedder = Shedder(fixed=limit)
    entered(shedder, deferrable - 1)
    assert shedder.enter(DEFERRABLE, 0.0)
    assert shedder.enter(DEFERRABLE, 0.0) is None
    entered(shedder, standard - deferrable)
    assert shedder.enter(STANDARD, 0.0) is None
    for _ in range(3 * limit):
        assert shedder.enter(CRITICAL, 0.0)
    assert shedder.shed == {RequestClass.STANDARD: 1, RequestClass.DEFERRABLE: 1}


def test_critical_calls_in_flight_leave_less_for_others() -> None:
    shedder = Shedder(fixed=10)
    for _ in range(9):
        shedder.enter(CRITICAL, 0.0)
    assert shedder.enter(STANDARD, 0.0) is None


def test_a_place_is_given_back_once() -> None:
    shedder = Shedder(fixed=2)
    first, _ = entered(shedder, 2)
    first.leave(1.0)
    first.leave(2.0, dropped=True)
    assert shedder.in_flight == shedder.waiting == 1
    assert shedder.enter(STANDARD, 2.0)
    assert shedder.enter(STANDARD, 2.0) is None


def test_what_streams_is_in_flight_and_waits_no_more() -> None:
    shedder = Shedder(fixed=2)
    first, second = entered(shedder, 2)
    first.answered(200, 1.0)
    first.answered(200, 2.0)
    assert (shedder.in_flight, shedder.waiting) == (2, 1)
    first.leave(900.0)
    second.leave(900.0)
    assert (shedder.in_flight, shedder.waiting) == (0, 0)


def test_without_a_limit_calls_are_only_counted() -> None:
    shedder = Shedder()
    entered(shedder, 1000)
    assert (shedder.in_flight, shedder.limit) == (1000, inf)
    assert not shedder.is_full(RequestClass.DEFERRABLE, 0.0)


def test_who_is_shed_is_told_to_wait_for_longer_the_more_come() -> None:
    shedder = Shedder(fixed=1)
    [place] = entered(shedder, 1)
    waits = []
    for second, came in zip((2.0, 4.0, 6.0), (2, 6, 1000), strict=True):
        for _ in range(came):
            assert shedder.enter(STANDARD, second) is None
        place.leave(second)
        [place] = entered(shedder, 1, second)
        assert shedder.enter(STANDARD, second + 1.0) is None  # looks back at the last second
        waits.append(
            [shedder.wait_s(one) for one in (RequestClass.STANDARD, RequestClass.DEFERRABLE)]
        )
    assert waits == [[3, 6], [7, 14], [30, 30]]


def test_an_episode_begins_once() -> None:
    shedder = Shedder(fixed=1)
    entered(shedder, 1)
    begun = []
    for now in (1.0, 2.0, 3.0, 13.0, 14.0):
        shedder.enter(STANDARD, now)
        begun.append(shedder.begins())
    assert begun == [True, False, False, True, False]


# the limit that is found


class Api:
    """Tells a limit of answers as they come, in windows that are just long enough."""

    def __init__(self, usual: float = 0.2, least: int = 20) -> None:
        self.limit = AdaptiveLimit(least)
        self.now = 0.0
        for _ in range(12 * CALLS):
            self._answer(usual, 1)
        while self.limit._window.calls:  # until one has just begun
            self._answer(usual, 1)

    def _answer(self, took: float, waiting: int) -> None:
        self.now += 1.01 * WINDOW_S / CALLS
        self.limit.answered("rest", took, waiting, self.now)

    def window(self, times: list[float], waiting: int = 100, drops: int = 0) -> float:
        """One window with such answers; the limit after it."""
        limit = self.limit
        limit.peak = max(limit.peak, waiting)
        calls = len(times) + drops
        for number in range(calls):
            self.now += 1.01 * WINDOW_S / calls
            if number < len(times):
                limit.answered("rest", times[number], waiting, self.now)
            else:
                limit.dropped(waiting, self.now)
        self.now = max(self.now, limit._deaf_until)
        return limit.value


SLOW = [0.6] * CALLS
USUAL = [0.2] * CALLS


def test_three_slow_windows_on_end_are_an_overload() -> None:
    api = Api()
    for times in (SLOW, SLOW, USUAL, SLOW, SLOW):
        assert api.window(times) == inf
    assert api.window(SLOW) < 100


def test_two_are_enough_when_they_are_clearly_slow() -> None:
    api = Api()
    assert api.window([1.0] * CALLS) == inf
    assert api.window([1.0] * CALLS) < 100


@pytest.mark.parametrize(
    "times",
    [
        [0.39] * CALLS,  # not twice what is usual
        [0.2] * 13 + [30.0] * 12,  # most calls are as fast as ever
        USUAL,
    ],
)
def test_what_is_no_overload_never_makes_a_limit(times: list[float]) -> None:
    api = Api()
    for _ in range(50):
        assert api.window(times) == inf


def test_fast_answers_that_get_slower_by_what_nobody_minds_are_no_overload() -> None:
    api = Api(usual=0.001)
    for _ in range(50):
        assert api.window([0.09] * CALLS) == inf


def test_with_few_in_flight_nothing_is_suspected() -> None:
    api = Api()
    for _ in range(50):
        assert api.window(SLOW, waiting=19) == inf


def test_answers_that_do_not_come_are_an_overload_too() -> None:
    api = Api()
    assert api.window(USUAL, drops=2) == inf  # less than a tenth
    assert api.window(USUAL, drops=2) == inf
    api.window(USUAL, drops=10)
    assert api.window(USUAL, drops=10) == 90


def test_an_api_that_is_down_is_not_overloaded() -> None:
    api = Api()
    for _ in range(20):
        assert api.window([], drops=CALLS) == inf


def test_drops_that_go_on_with_half_as_many_in_flight_have_another_cause() -> None:
    api = Api()
    limits: list[float] = []
    for _ in range(60):
        api.limit.shed(api.now)
        waiting = 100 if api.limit.value == inf else int(api.limit.value)
        limits.append(api.window([0.2] * 30, waiting=waiting, drops=30))
    assert min(limits) < 90
    assert limits[-20:] == [inf] * 20


def test_the_limit_goes_when_nobody_was_shed_for_a_while_whether_or_not_calls_come() -> None:
    api = Api()
    for _ in range(3):
        api.window(SLOW)
    api.limit.shed(api.now)
    assert not api.limit.is_over(api.now + CALM_S - 0.1)
    assert api.limit.is_over(api.now + CALM_S + 0.1)
    assert api.limit.value == inf


def test_a_client_that_gives_up_is_a_slow_call_and_one_that_leaves_early_tells_nothing() -> None:
    api = Api()
    for took in (0.1, 3.0):
        for _ in range(12 * CALLS):
            api.now += WINDOW_S / CALLS
            api.limit.peak = 100
            api.limit.given_up("rest", took, 100, api.now)
        assert (api.limit.value < inf) == (took > 1)


# what is usual


def test_each_route_has_its_own_time_and_unknown_ones_have_none() -> None:
    times = UsualTimes()
    for number in range(100):
        times.learn("fast", 0.01, number, calm=True)
        times.learn("slow", 2.0, number, calm=True)
    assert times.usual("fast") == pytest.approx(0.01)
    assert times.usual("slow") == pytest.approx(2.0)
    assert times.usual("other") == 0.0
    times.keep({"slow"})
    assert times.usual("fast") == 0.0


def test_slower_answers_come_to_be_usual_slowly_and_under_suspicion_never() -> None:
    times = UsualTimes()
    for number in range(400):
        times.learn("rest", 0.1, number / 10, calm=True)
    for number in range(300):
        times.learn("rest", 0.3, 40 + number / 10, calm=False)
    assert times.usual("rest") == pytest.approx(0.1)
    for number in range(300):
        times.learn("rest", 0.3, 70 + number / 10, calm=True)
    assert 0.1 < times.usual("rest") < 0.13
    for number in range(1200):
        times.learn("rest", 0.05, 100 + number / 10, calm=False)
    assert times.usual("rest") < 0.06
