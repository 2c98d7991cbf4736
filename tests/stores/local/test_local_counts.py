"""Local shares of one sidecar, on a clock that the test drives."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sidecar.core.answers import Answer, Hold
from sidecar.core.counting.teams import team_share
from sidecar.core.kinds import MICRO, ConcurrencyLimit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim, Team, WhenDown
from sidecar.core.shares import Snapshot
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
class Stage:
    """`snapshots`: the last known state in Redis, by the fields of the limits."""

    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    open_in_redis: list[OpenReservation] = field(default_factory=list)
    sidecars: int = 2
    now_us: int = START

    def __post_init__(self) -> None:
        self.store = self.with_room_for(shares.MOST_ACCOUNTS)

    def with_room_for(self, accounts: int) -> LocalLimits:
        store = LocalLimits(
            lambda: self.now_us,
            snapshots_of=lambda _: self.snapshots,
            window=Commands("qs").window,
            open_in_redis=lambda _: self.open_in_redis,
            accounts=accounts,
        )
        store.sidecars = self.sidecars
        return store

    def reserve(
        self, *claims: Claim, when_down: WhenDown = "local", hold: str = "", **more: Any
    ) -> Answer:
        held = Hold(hold, MICRO) if hold else None
        account = more.get("account", ACME)
        return self.store.reserve(account, more.get("key_id", "k1"), claims, held, when_down)

    def granted(self, number: int, *claims: Claim, **more: Any) -> int:
        return [self.reserve(*claims, **more).granted for _ in range(number)].count(True)


def test_the_next_period_of_a_quota_is_divided_as_a_whole() -> None:
    stage = Stage({"q/hourly": Snapshot(START, 6, START + HOUR_US)})
    claim = Claim(HOURLY, 1, False)
    assert stage.granted(9, claim) == 2
    stage.now_us += HOUR_US - 1
    assert stage.granted(9, claim) == 0
    stage.now_us += 1
    assert stage.granted(9, claim) == 5


def test_the_answer_describes_the_whole_limit() -> None:
    stage = Stage({"q/hourly": Snapshot(START, 6, START + HOUR_US)})
    answer = stage.reserve(Claim(HOURLY, 1, False))
    assert (answer.used, answer.ends_us, answer.local) == ((7,), (START + HOUR_US,), True)


def test_a_bucket_refills_at_its_share_of_the_rate() -> None:
    stage = Stage()
    claim = Claim(RATE, 1, False)
    assert stage.granted(9, claim) == 4
    stage.now_us += MICRO
    assert stage.granted(9, claim) == 2  # two of four a second


def test_I8_a_clock_that_steps_back_grants_nothing() -> None:
    stage = Stage()
    claims = (Claim(RATE, 1, False), Claim(HOURLY, 1, False))
    assert stage.granted(9, *claims) == 4
    stage.now_us -= HOUR_US
    assert stage.granted(9, *claims) == 0


def test_a_limit_per_key_counts_for_each_key() -> None:
    stage = Stage({"q/keyed/k1": Snapshot(START, 6, START + HOUR_US)})
    claim = Claim(KEYED, 1, False)
    assert [stage.granted(9, claim, key_id=key_id) for key_id in ("k1", "k2")] == [2, 5]


def test_I3_the_limit_on_critical_requests_is_enforced_and_not_divided() -> None:
    stage = Stage()
    claims = (Claim(HOURLY, 1, True), Claim(GUARD, 1, False))
    assert stage.granted(20, *claims, when_down="critical") == 6


def test_a_changed_plan_applies_at_once_and_usage_stays() -> None:
    stage = Stage()
    assert stage.granted(9, Claim(HOURLY, 1, False)) == 5
    wider = QuotaLimit("hourly", "requests", 20, "hour", 20)
    assert stage.granted(9, Claim(wider, 1, False)) == 5
    assert (
        stage.granted(9, Claim(HOURLY, 0, False)) == 0
    )  # more than the smaller quota's share is used


def test_a_request_is_settled_at_its_actual_cost_and_releases_its_slot() -> None:
    stage = Stage()
    claims = (Claim(HOURLY, 2, False), Claim(SLOTS, 1, False))
    assert stage.granted(1, *claims, hold="a") == 1
    stage.now_us += 60 * MICRO  # no lease expires while this process is alive
    assert stage.reserve(Claim(SLOTS, 1, False), hold="b").used == (2,)
    stage.store.settle(ACME, "k1", (Claim(HOURLY, 4, False), Claim(SLOTS, 1, False)), "a")
    for _ in range(2):
        stage.store.settle(ACME, "k1", claims, "unknown")
    answer = stage.reserve(Claim(HOURLY, 1, False), Claim(SLOTS, 1, False), hold="c")
    assert answer.used == (5, 2)


def test_slots_that_are_taken_in_redis_count_against_the_local_share() -> None:
    slot = (Claim(SLOTS, 1, False),)
    stage = Stage(open_in_redis=[OpenReservation(name, ACME, "k1", slot) for name in ("a", "b")])
    assert stage.granted(1, *slot, hold="c") == 1
    assert stage.granted(1, *slot, hold="d") == 0
    stage.store.settle(ACME, "k1", slot, "a")
    assert stage.granted(1, *slot, hold="e") == 1


def test_I9_beyond_the_bound_an_account_gets_no_decision_and_none_is_forgotten() -> None:
    stage = Stage()
    stage.store = stage.with_room_for(2)
    claim = Claim(HOURLY, 1, False)
    first, second, third = (Account(name, "pro") for name in ("first", "second", "third"))
    for account in (first, second):
        assert stage.granted(9, claim, account=account) == 5
    with pytest.raises(StoreUnavailable):
        stage.reserve(claim, account=third)
    assert stage.granted(9, claim, account=first) == 0
    stage.store.forget("second")
    assert stage.granted(9, claim, account=third) == 5


def test_I9_limits_per_key_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MOST_LIMITS", 3)
    stage = Stage()
    claim = Claim(KEYED, 1, False)
    assert [stage.granted(1, claim, key_id=f"k{number}") for number in range(3)] == [1, 1, 1]
    with pytest.raises(StoreUnavailable):
        stage.reserve(claim, key_id="k4")
    stage.store.forget("acme")
    assert [stage.granted(1, claim, key_id=f"k{number}") for number in range(4, 7)] == [1, 1, 1]


def test_requests_in_an_abandoned_journal_count_against_the_share() -> None:
    stage = Stage()
    stage.store.count_past(
        ACME,
        "k1",
        (Claim(HOURLY, 2, True),),
        START,
        {"q/hourly": Snapshot(START, 4, START + HOUR_US)},
    )
    older = {"q/hourly": Snapshot(START - 1, 0, START + HOUR_US)}
    stage.store.count_past(ACME, "k1", (), START, older)
    assert stage.granted(9, Claim(HOURLY, 1, False)) == 1  # (10 - 4) // 2, less 2


def test_levels_are_the_used_units_of_buckets() -> None:
    stage = Stage()
    stage.granted(3, Claim(RATE, 1, False), Claim(a_quota(9), 1, False))
    assert stage.store.levels("acme") == [(ACME, "k1", Claim(RATE, 3, True))]
    stage.now_us += 10 * MICRO
    assert stage.store.levels("acme") == []


def test_redis_time_follows_the_monotonic_clock_and_not_the_wall_clock() -> None:
    monotonic, wall = [5.0], [START]
    time = StoreClock(lambda: monotonic[0], lambda: wall[0])
    assert time.now_us() == START
    time.set(START + HOUR_US)
    wall[0] -= 9 * HOUR_US
    monotonic[0] += 2.5
    assert time.now_us() == START + HOUR_US + 2_500_000


async def test_the_number_of_sidecars_falls_only_after_their_lifetime(valkey_url: str) -> None:
    """Sidecars find a Redis that starts empty one after the other: shares must not grow by that."""
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    hearts = [Heartbeat(wire, "qs", name, StoreClock()) for name in ("a", "b", "c")]
    first = hearts[0]
    for one in hearts:
        assert await one.beat("charged") == "ok"
    assert await first.beat("charged") == "ok"
    assert first.alive == 3
    for one in hearts[1:]:
        assert await one.beat("leaving") == "ok"
    assert await first.beat("charged") == "ok"
    assert first.alive == 3
    first._falls_after_us -= LIFETIME_US
    assert await first.beat("charged") == "ok"
    assert first.alive == 1
    await wire.stop()


def test_a_teams_units_in_an_abandoned_journal_count_against_its_part() -> None:
    teams = (Team("search", 50, lends=False), Team("ads", 30, lends=False))
    share = team_share(HOURLY, teams, "search")
    in_journal = replace(share, others=())
    stage = Stage(sidecars=1)
    stage.store.count_past(
        ACME, "k1", (Claim(HOURLY, 2, True), Claim(in_journal, 2, True)), START, {}
    )
    assert stage.granted(9, Claim(HOURLY, 1, False), Claim(share, 1, False)) == 5
