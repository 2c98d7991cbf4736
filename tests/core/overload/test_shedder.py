"""Which requests are shed at which number in flight, and their Retry-After."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import RequestClass, Route
from sidecar.core.overload.shedder import InFlightRequest, Shedder
from tests.support.overloaded_api import a_route

CRITICAL, STANDARD, DEFERRABLE = (a_route(str(name), name) for name in RequestClass)


def entered(shedder: Shedder, count: int, now: float = 0.0) -> list[InFlightRequest]:
    """Enter so many standard requests; none is shed."""
    requests = [shedder.enter(STANDARD, now) for _ in range(count)]
    assert None not in requests
    return [request for request in requests if request is not None]


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


def test_critical_requests_in_flight_leave_less_for_others() -> None:
    shedder = Shedder(fixed=10)
    for _ in range(9):
        shedder.enter(CRITICAL, 0.0)
    assert shedder.enter(STANDARD, 0.0) is None


def test_a_request_leaves_once() -> None:
    shedder = Shedder(fixed=2)
    first, _ = entered(shedder, 2)
    first.leave(1.0)
    first.leave(2.0, dropped=True)
    assert shedder.in_flight == shedder.waiting == 1
    assert shedder.enter(STANDARD, 2.0)
    assert shedder.enter(STANDARD, 2.0) is None


def test_a_streaming_response_is_in_flight_and_does_not_wait() -> None:
    shedder = Shedder(fixed=2)
    first, second = entered(shedder, 2)
    first.on_response(200, 1.0)
    first.on_response(200, 2.0)
    assert (shedder.in_flight, shedder.waiting) == (2, 1)
    first.leave(900.0)
    second.leave(900.0)
    assert (shedder.in_flight, shedder.waiting) == (0, 0)


def test_without_a_limit_requests_are_only_counted() -> None:
    shedder = Shedder()
    entered(shedder, 1000)
    assert (shedder.in_flight, shedder.limit) == (1000, inf)
    assert not shedder.is_full(RequestClass.DEFERRABLE, 0.0)


def test_retry_after_grows_with_the_requests_that_come() -> None:
    shedder = Shedder(fixed=1)
    [request] = entered(shedder, 1)
    spans = []
    for second, count in zip((2.0, 4.0, 6.0), (2, 6, 1000), strict=True):
        for _ in range(count):
            assert shedder.enter(STANDARD, second) is None
        request.leave(second)
        [request] = entered(shedder, 1, second)
        assert shedder.enter(STANDARD, second + 1.0) is None  # tallies the last second
        classes = (RequestClass.STANDARD, RequestClass.DEFERRABLE)
        spans.append([shedder.retry_after_s(one) for one in classes])
    assert spans == [[3, 6], [7, 14], [30, 30]]


def test_an_episode_starts_once() -> None:
    shedder = Shedder(fixed=1)
    entered(shedder, 1)
    started = []
    for now in (1.0, 2.0, 3.0, 13.0, 14.0):
        shedder.enter(STANDARD, now)
        started.append(shedder.pop_started())
    assert started == [True, False, False, True, False]


def account_enters(
    shedder: Shedder, account: str, route: Route, most: int
) -> list[InFlightRequest]:
    """Enter requests of an account until one is shed, at most so many."""
    requests = []
    for _ in range(most):
        request = shedder.enter(route, 0.0, account)
        if request is None:
            break
        requests.append(request)
    return requests


@pytest.mark.parametrize(("percent", "alone", "second"), [(50, 45, 23), (80, 72, 15), (100, 90, 0)])
def test_I3_one_account_has_a_share_of_a_fixed_limit(percent: int, alone: int, second: int) -> None:
    shedder = Shedder(fixed=100, percent=percent)
    requests = account_enters(shedder, "a", STANDARD, 100)
    assert len(requests) == alone
    assert shedder.is_full(RequestClass.STANDARD, 0.0, "a")
    assert shedder.is_full(RequestClass.STANDARD, 0.0, "b") is (second == 0)
    assert len(account_enters(shedder, "b", STANDARD, 100)) == second
    for request in [*requests[:2], *requests[:2]]:  # each leaves once
        request.leave(1.0)
    assert len(account_enters(shedder, "b", STANDARD, 100)) == (1 if second else 2)


def test_I3_critical_requests_of_one_account_take_only_its_share() -> None:
    shedder = Shedder(fixed=100, percent=50)
    critical = account_enters(shedder, "a", CRITICAL, 300)
    assert (len(critical), shedder.in_flight) == (300, 300)
    others = account_enters(shedder, "b", STANDARD, 100)
    assert len(others) == 20  # half of the 40 that critical requests and their reserve leave
    for request in critical:
        request.on_response(200, 1.0)
        request.leave(1.0)
    for request in others:
        request.leave(1.0)
    assert shedder.in_flight == 0
    assert len(account_enters(shedder, "c", STANDARD, 100)) == 45


@given(
    st.integers(1, 40),
    st.sampled_from([10, 50, 80, 100]),
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2), st.booleans()), max_size=120),
)
def test_I3_the_law_of_shares_holds_for_a_fixed_limit(
    limit: int, percent: int, actions: list[tuple[str, int, bool]]
) -> None:
    shedder = Shedder(fixed=limit, percent=percent)
    held: list[tuple[str, int, bool, InFlightRequest]] = []  # and whether it counts
    routes = (CRITICAL, STANDARD, DEFERRABLE)
    for account, kind, enters in actions:
        if not enters:
            if held:
                held.pop(0)[3].leave(0.0)
            continue
        counted = sum(counts for _, _, counts, _ in held)
        own = sum(of == account and (kind == 0) is (other == 0) for of, other, _, _ in held)
        capacity = (limit, limit - int(limit * 0.1), int(limit * 0.7))[kind]
        free = max(1, capacity) - counted
        within = own == 0 or own * (100 - percent) < free * percent
        request = shedder.enter(routes[kind], 0.0, account)
        if kind:
            assert (request is not None) == (free > 0 and within)
        else:
            within = own == 0 or own * (100 - percent) < max(1, limit - counted) * percent
        if request is not None:
            held.append((account, kind, within, request))
        assert shedder.in_flight == len(held)
    for *_, request in held:
        request.leave(0.0)
    assert len(account_enters(shedder, "e", STANDARD, 1)) == 1


def test_an_episode_of_shedding_ends_when_nothing_was_shed_for_a_while() -> None:
    shedder = Shedder(fixed=1)
    entered(shedder, 1)
    started = []
    for second in (0.0, 6.0, 12.0, 18.0, 28.0):
        assert shedder.enter(STANDARD, second) is None
        started.append(shedder.pop_started())
    assert started == [True, False, False, False, True]
