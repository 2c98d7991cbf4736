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
    served = [of[turns.take(0.0)] for _ in range(len(turns))]
    assert Counter(served[:10]) == Counter(["flood", *(f"quiet{n}" for n in range(9))])
    assert served[10:] == ["flood"] * 49
    with pytest.raises(KeyError):
        turns.take(0.0)


def test_the_requests_of_an_account_keep_their_order(loop: asyncio.AbstractEventLoop) -> None:
    turns = FairQueue()
    made = [a_turn(loop, turns, "acme", 1.0) for _ in range(5)]
    assert [turns.take(1.05) for _ in range(5)] == made


def test_a_standing_queue_is_last_in_first_out_and_other_queues_are_not(
    loop: asyncio.AbstractEventLoop,
) -> None:
    turns = FairQueue()
    old = [a_turn(loop, turns, "standing", 0.0) for _ in range(3)]
    new = [a_turn(loop, turns, "moving", 9.95) for _ in range(3)]
    served = [turns.take(10.0) for _ in range(6)]
    assert served == [old[2], new[0], old[1], new[1], old[0], new[2]]


def test_a_request_that_leaves_is_not_taken(loop: asyncio.AbstractEventLoop) -> None:
    turns = FairQueue()
    made = [a_turn(loop, turns, "acme") for _ in range(3)]
    turns.leave("acme", made[1])
    turns.leave("acme", made[1])
    turns.leave("nobody", made[0])
    assert len(turns) == 2
    assert [turns.take(0.0), turns.take(0.0)] == [made[0], made[2]]
    turns.leave("acme", made[0])
    assert len(turns) == 0
