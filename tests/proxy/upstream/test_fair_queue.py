"""The order of waiting requests: accounts take turns, independent of their load."""

import asyncio
from collections import Counter

import pytest

from sidecar.proxy.upstream.fair_queue import FairQueue, Turn


def a_turn(
    loop: asyncio.AbstractEventLoop, turns: FairQueue, account: str, since: float = 0.0
) -> Turn:
    turn: Turn = loop.create_future()
    turns.join(account, since, turn)
    return turn


def take(turns: FairQueue, now: float) -> Turn:
    """The next turn, if every account may take one."""
    found = turns.take(now, lambda _account: True)
    assert found is not None
    return found[1]


@pytest.fixture
def loop() -> object:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_a_flood_of_one_account_delays_only_that_account(loop: asyncio.AbstractEventLoop) -> None:
    turns, of = FairQueue(), {}
    for _ in range(50):
        of[a_turn(loop, turns, "flood")] = "flood"
    for n in range(9):
        of[a_turn(loop, turns, f"quiet{n}")] = f"quiet{n}"
    served = [of[take(turns, 0.0)] for _ in range(len(turns))]
    assert Counter(served[:10]) == Counter(["flood", *(f"quiet{n}" for n in range(9))])
    assert served[10:] == ["flood"] * 49
    assert turns.take(0.0, lambda _account: True) is None


def test_the_requests_of_an_account_keep_their_order(loop: asyncio.AbstractEventLoop) -> None:
    turns = FairQueue()
    made = [a_turn(loop, turns, "acme", 1.0) for _ in range(5)]
    assert [take(turns, 1.05) for _ in range(5)] == made


def test_a_standing_queue_is_last_in_first_out_and_other_queues_are_not(
    loop: asyncio.AbstractEventLoop,
) -> None:
    turns = FairQueue()
    old = [a_turn(loop, turns, "standing", 0.0) for _ in range(3)]
    new = [a_turn(loop, turns, "moving", 9.95) for _ in range(3)]
    served = [take(turns, 10.0) for _ in range(6)]
    assert served == [old[2], new[0], old[1], new[1], old[0], new[2]]


def test_a_request_that_leaves_is_not_taken(loop: asyncio.AbstractEventLoop) -> None:
    turns = FairQueue()
    made = [a_turn(loop, turns, "acme") for _ in range(3)]
    assert turns.leave("acme", made[1])
    assert not turns.leave("acme", made[1])
    assert not turns.leave("other", made[0])
    assert len(turns) == 2
    assert [take(turns, 0.0), take(turns, 0.0)] == [made[0], made[2]]
    assert not turns.leave("acme", made[0])
    assert len(turns) == 0


def test_an_account_that_may_not_take_a_connection_is_passed_over(
    loop: asyncio.AbstractEventLoop,
) -> None:
    turns = FairQueue()
    first, second = a_turn(loop, turns, "greedy"), a_turn(loop, turns, "modest")
    assert turns.take(0.0, lambda account: account != "greedy") == ("modest", second)
    assert turns.take(0.0, lambda account: account != "greedy") is None
    assert turns.accounts == [("greedy", 1)]
    assert take(turns, 0.0) is first
