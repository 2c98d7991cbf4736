"""What one sidecar counts alone, on a clock that the test drives, and within its bounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sidecar.core.answers import Answer, Hold
from sidecar.core.model import (
    MICRO,
    Account,
    Claim,
    ConcurrencyLimit,
    QuotaLimit,
    RateLimit,
    Team,
    WhenDown,
)
from sidecar.core.shares import Snapshot
from sidecar.core.teams import shares_of
from sidecar.errors import StoreUnavailable
from sidecar.stores.commands import Commands
from sidecar.stores.connection.wire import Wire
from sidecar.stores.local import shares
from sidecar.stores.local.clock import StoreClock
from sidecar.stores.local.heartbeat import LIFETIME_US, Heartbeat
from sidecar.stores.local.shares import LocalLimits
from sidecar.stores.settler import OpenReservation
from tests.support.stores.local_stage import a_quota

HOUR_US = 3_600 * MICRO
START = 1_790_000_000 * MICRO // HOUR_US * HOUR_US
ACME = Account("acme", "pro")
HOURLY = QuotaLimit("hourly", "requests", 10, "hour", 10)
KEYED = QuotaLimit("keyed", "requests", 10, "hour", 10, per="key")
RATE = RateLimit("per-second", "requests", 4, MICRO, 8, (4, 1))
GUARD = RateLimit("critical", "calls", 2, MICRO, 6, (2, 1))
SLOTS = ConcurrencyLimit("in-flight", 6)


@dataclass
class Counting:
    """`looks`: what Redis said last, by the names of the limits."""

    looks: dict[str, Snapshot] = field(default_factory=dict)
    held: list[OpenReservation] = field(default_factory=list)
    ways: int = 2
    now_us: int = START

    def __post_init__(self) -> None:
        self.store = self.with_room_for(shares.MOST_ACCOUNTS)

    def with_room_for(self, accounts: int) -> LocalLimits:
        def look(_: str) -> Mapping[str, Snapshot]:
            return self.looks

        store = LocalLimits(lambda: self.now_us, look=look, window=Commands("qs").window,
                      held=lambda _: self.held, accounts=accounts)  # fmt: skip
        store.ways = self.ways
        return store

    def ask(
        self, *claims: Claim, when_down: WhenDown = "local", hold: str = "", **more: Any
    ) -> Answer:
        held = Hold(hold, MICRO) if hold else None
        account = more.get("account", ACME)
        return self.store.reserve(account, more.get("key_id", "k1"), claims, held, when_down)

    def passed(self, number: int, *claims: Claim, **more: Any) -> int:
        return [self.ask(*claims, **more).granted for _ in range(number)].count(True)


def test_a_quota_that_begins_anew_is_divided_as_a_whole() -> None:
    counting = Counting({"q/hourly": Snapshot(START, 6, START + HOUR_US)})
    call = Claim(HOURLY, 1, False)
    assert counting.passed(9, call) == 2
    counting.now_us += HOUR_US - 1
    assert counting.passed(9, call) == 0
    counting.now_us += 1
    assert counting.passed(9, call) == 5


def test_the_answer_tells_of_the_whole_limit() -> None:
    counting = Counting({"q/hourly": Snapshot(START, 6, START + HOUR_US)})
    answer = counting.ask(Claim(HOURLY, 1, False))
    assert (answer.used, answer.ends_us, answer.alone) == ((7,), (START + HOUR_US,), True)


def test_a_rate_refills_with_its_share_of_the_rate() -> None:
    counting = Counting()
    call = Claim(RATE, 1, False)
    assert counting.passed(9, call) == 4
    counting.now_us += MICRO
    assert counting.passed(9, call) == 2  # two of four a second


def test_I8_a_clock_that_steps_back_grants_nothing() -> None:
    counting = Counting()
    calls = (Claim(RATE, 1, False), Claim(HOURLY, 1, False))
    assert counting.passed(9, *calls) == 4
    counting.now_us -= HOUR_US
    assert counting.passed(9, *calls) == 0


def test_a_limit_per_key_is_each_keys_own() -> None:
    counting = Counting({"q/keyed/k1": Snapshot(START, 6, START + HOUR_US)})
    call = Claim(KEYED, 1, False)
    assert [counting.passed(9, call, key_id=key_id) for key_id in ("k1", "k2")] == [2, 5]


def test_I3_the_guard_of_critical_calls_is_not_divided_and_holds() -> None:
    counting = Counting()
    call = (Claim(HOURLY, 1, True), Claim(GUARD, 1, False))
    assert counting.passed(20, *call, when_down="critical") == 6


def test_a_changed_plan_acts_at_once_and_keeps_what_was_used() -> None:
    counting = Counting()
    assert counting.passed(9, Claim(HOURLY, 1, False)) == 5
    wider = QuotaLimit("hourly", "requests", 20, "hour", 20)
    assert counting.passed(9, Claim(wider, 1, False)) == 5
    assert counting.passed(9, Claim(HOURLY, 0, False)) == 0  # it is over the smaller one's


def test_a_call_is_settled_at_what_it_cost_and_gives_its_slot_back() -> None:
    counting = Counting()
    claims = (Claim(HOURLY, 2, False), Claim(SLOTS, 1, False))
    assert counting.passed(1, *claims, hold="a") == 1
    counting.now_us += 60 * MICRO  # no lease ends: this process is alive
    assert counting.ask(Claim(SLOTS, 1, False), hold="b").used == (2,)
    counting.store.settle(ACME, "k1", (Claim(HOURLY, 4, False), Claim(SLOTS, 1, False)), "a")
    for _ in range(2):
        counting.store.settle(ACME, "k1", claims, "unknown")
    answer = counting.ask(Claim(HOURLY, 1, False), Claim(SLOTS, 1, False), hold="c")
    assert answer.used == (5, 2)


def test_slots_that_are_held_in_redis_are_of_this_share() -> None:
    slot = (Claim(SLOTS, 1, False),)
    counting = Counting(held=[OpenReservation(name, ACME, "k1", slot) for name in ("a", "b")])
    assert counting.passed(1, *slot, hold="c") == 1
    assert counting.passed(1, *slot, hold="d") == 0
    counting.store.settle(ACME, "k1", slot, "a")
    assert counting.passed(1, *slot, hold="e") == 1


def test_I9_an_account_for_which_there_is_no_room_is_not_counted_and_none_is_forgotten() -> None:
    counting = Counting()
    counting.store = counting.with_room_for(2)
    call = Claim(HOURLY, 1, False)
    first, second, third = (Account(name, "pro") for name in ("first", "second", "third"))
    for account in (first, second):
        assert counting.passed(9, call, account=account) == 5
    with pytest.raises(StoreUnavailable):
        counting.ask(call, account=third)
    assert counting.passed(9, call, account=first) == 0
    counting.store.forget("second")
    assert counting.passed(9, call, account=third) == 5


def test_I9_limits_per_key_have_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MOST_LIMITS", 3)
    counting = Counting()
    call = Claim(KEYED, 1, False)
    assert [counting.passed(1, call, key_id=f"k{number}") for number in range(3)] == [1, 1, 1]
    with pytest.raises(StoreUnavailable):
        counting.ask(call, key_id="k4")
    counting.store.forget("acme")
    assert counting.passed(1, call, key_id="k4") == 1


def test_what_a_former_process_let_pass_is_of_the_share() -> None:
    counting = Counting()
    counting.store.count_before(
        ACME,
        "k1",
        (Claim(HOURLY, 2, True),),
        START,
        {"q/hourly": Snapshot(START, 4, START + HOUR_US)},
    )
    older = {"q/hourly": Snapshot(START - 1, 0, START + HOUR_US)}
    counting.store.count_before(ACME, "k1", (), START, older)
    assert counting.passed(9, Claim(HOURLY, 1, False)) == 1  # (10 - 4) // 2, less 2


def test_levels_are_what_is_in_the_buckets() -> None:
    counting = Counting()
    counting.passed(3, Claim(RATE, 1, False), Claim(a_quota(9), 1, False))
    assert counting.store.levels("acme") == [(ACME, "k1", Claim(RATE, 3, True))]
    counting.now_us += 10 * MICRO
    assert counting.store.levels("acme") == []


def test_redis_time_goes_on_with_the_monotonic_clock_whatever_the_wall_clock_does() -> None:
    monotonic, wall = [5.0], [START]
    time = StoreClock(lambda: monotonic[0], lambda: wall[0])
    assert time.now_us() == START
    time.heard(START + HOUR_US)
    wall[0] -= 9 * HOUR_US
    monotonic[0] += 2.5
    assert time.now_us() == START + HOUR_US + 2_500_000


async def test_fewer_sidecars_are_believed_only_after_their_lifetime(valkey_url: str) -> None:
    """A Redis that starts empty hears of them one after the other: shares must not grow by that."""
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    hearts = [Heartbeat(wire, "qs", name, StoreClock()) for name in ("a", "b", "c")]
    first = hearts[0]
    for heart in hearts:
        assert await heart.beat("well") == "told"
    assert await first.beat("well") == "told"
    assert first.alive == 3
    for heart in hearts[1:]:
        assert await heart.beat("leaving") == "told"
    assert await first.beat("well") == "told"
    assert first.alive == 3
    first._until_us -= LIFETIME_US
    assert await first.beat("well") == "told"
    assert first.alive == 1
    await wire.stop()


def test_what_a_former_process_let_a_team_use_is_of_its_part() -> None:
    teams = (Team("search", 50, lends=False), Team("ads", 30, lends=False))
    share = shares_of(HOURLY, teams, "search")
    journalled = replace(share, others=())  # as a journal has it
    counting = Counting(ways=1)
    counting.store.count_before(
        ACME, "k1", (Claim(HOURLY, 2, True), Claim(journalled, 2, True)), START, {}
    )
    assert counting.passed(9, Claim(HOURLY, 1, False), Claim(share, 1, False)) == 5
