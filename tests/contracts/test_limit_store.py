"""The contract of `ports.LimitStore`, tested with each store."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import date

import pytest

from sidecar.core.counting.teams import team_share
from sidecar.core.kinds import MICRO, UNBOUNDED, Limit, PeriodLimit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim, Team
from sidecar.core.periods import bounds
from sidecar.ports import LimitStore
from sidecar.stores import MemoryLimitStore, RedisLimitStore, connect
from tests.support.stores.local_stage import a_sidecar

ACME = Account("acme", "pro")
GLOBEX = Account("globex", "pro")
DAY_US = 86_400 * MICRO


@asynccontextmanager
async def in_memory(_: pytest.FixtureRequest) -> AsyncIterator[LimitStore]:
    yield MemoryLimitStore(lambda: time.time_ns() // 1000)


@asynccontextmanager
async def in_redis(request: pytest.FixtureRequest) -> AsyncIterator[LimitStore]:
    async with at(request.getfixturevalue("valkey_url")) as store:
        yield store


@asynccontextmanager
async def behind_sentinels(request: pytest.FixtureRequest) -> AsyncIterator[LimitStore]:
    async with at(request.getfixturevalue("sentinels").url) as store:
        yield store


@asynccontextmanager
async def in_a_cluster(request: pytest.FixtureRequest) -> AsyncIterator[LimitStore]:
    async with at(request.getfixturevalue("cluster").url) as store:
        yield store


@asynccontextmanager
async def at(url: str) -> AsyncIterator[LimitStore]:
    wire = connect(url, timeout_s=10)
    await wire.start()
    try:
        yield RedisLimitStore(wire)
    finally:
        await wire.stop()


@asynccontextmanager
async def in_redis_with_a_fallback(request: pytest.FixtureRequest) -> AsyncIterator[LimitStore]:
    url, directory = request.getfixturevalue("valkey_url"), request.getfixturevalue("tmp_path")
    async with a_sidecar(url, directory, timeout_s=10) as sidecar:
        yield sidecar.store


Adapter = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[LimitStore]]
ADAPTERS: dict[str, Adapter] = {
    "memory": in_memory, "redis": in_redis, "sentinel": behind_sentinels, "cluster": in_a_cluster,
    "fallback": in_redis_with_a_fallback,
}  # fmt: skip


@pytest.fixture(params=ADAPTERS)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LimitStore]:
    async with ADAPTERS[request.param](request) as store:
        yield store


def a_quota(units: int, **changes: object) -> QuotaLimit:
    # The longest period, so that none ends during a test
    return replace(QuotaLimit("monthly", "requests", units, "month", units), **changes)  # type: ignore[arg-type]


def a_rate(burst: int, **changes: object) -> RateLimit:
    """A bucket of one unit a day, which does not refill during a test."""
    return replace(RateLimit("slow", "requests", 1, DAY_US, burst, (1, 86_400)), **changes)  # type: ignore[arg-type]


def a_claim(limit: Limit, cost: int = 1, *, forced: bool = False) -> Claim:
    return Claim(limit, cost, forced)


async def used_units(store: LimitStore, *claims: Claim, key_id: str = "k1") -> tuple[int, ...]:
    """The used units of each limit, rounded down."""
    answer = await store.peek(ACME, key_id, claims)
    return tuple(
        used if isinstance(claim.limit, PeriodLimit) else -(-used // MICRO)
        for used, claim in zip(answer.used, claims, strict=True)
    )


async def test_the_store_is_up(store: LimitStore) -> None:
    assert store.up is True


async def test_a_quota_answers_in_units_with_the_end_of_its_period(store: LimitStore) -> None:
    account = Account("acme", "pro", "America/New_York", date(2026, 1, 31))
    quotas = [a_quota(9, id=unit, period=unit) for unit in ("day", "week", "month", "cycle")]
    answer = await store.reserve(account, "k1", [a_claim(quota, 4) for quota in quotas])
    assert (answer.granted, answer.used) == (True, (4, 4, 4, 4))
    assert answer.ends_us == tuple(
        bounds(quota.period, account.timezone, account.anchor, answer.now_us)[1] for quota in quotas
    )


async def test_a_rate_answers_in_micro_units_and_never_ends(store: LimitStore) -> None:
    claims = [a_claim(a_rate(9), 4)]
    first = await store.reserve(ACME, "k1", claims)
    assert (first.granted, first.used, first.ends_us) == (True, (4 * MICRO,), (0,))
    second = await store.reserve(ACME, "k1", claims)
    refilled = (second.now_us - first.now_us) // 86_400  # micro-units
    assert 8 * MICRO - refilled - 1 <= second.used[0] <= 8 * MICRO - refilled + 1


async def test_a_bucket_refills_by_the_clock_of_the_store(store: LimitStore) -> None:
    fast = RateLimit("fast", "requests", 1, 1000, 1, (1000, 1))  # one unit every millisecond
    claims = [a_claim(fast)]
    grants = []
    async with asyncio.timeout(60):
        while len(grants) < 5:
            answer = await store.reserve(ACME, "k1", claims)
            if answer.granted:
                grants.append(answer.now_us)
    gaps = [after - before for before, after in itertools.pairwise(grants)]
    assert all(gap >= 1000 for gap in gaps)


async def test_several_limits_are_answered_in_the_order_of_the_claims(store: LimitStore) -> None:
    claims = [a_claim(a_quota(9), 3), a_claim(a_rate(9), 2), a_claim(a_quota(9, id="other"), 5)]
    answer = await store.reserve(ACME, "k1", claims)
    assert answer.used == (3, 2 * MICRO, 5)
    assert [end == 0 for end in answer.ends_us] == [False, True, False]
    turned = await store.peek(ACME, "k1", claims[::-1])
    assert (turned.used[0], turned.used[2]) == (5, 3)


async def test_I2_one_limit_that_does_not_fit_refuses_all_claims(store: LimitStore) -> None:
    for spent in (a_quota(2, id="small"), a_rate(2, id="small")):
        room = a_quota(100)
        assert (await store.reserve(ACME, "k1", [a_claim(spent, 2)])).granted
        before = await used_units(store, a_claim(room), a_claim(spent))
        for claims in (
            [a_claim(room), a_claim(spent)],
            [a_claim(spent), a_claim(room)],
            [a_claim(room, forced=True), a_claim(spent)],
        ):
            assert not (await store.reserve(ACME, "k1", claims)).granted
        assert await used_units(store, a_claim(room), a_claim(spent)) == before


async def test_I2_a_refusal_is_free_and_reports_the_usage(store: LimitStore) -> None:
    assert (await store.reserve(ACME, "k1", [a_claim(a_quota(10), 8)])).granted
    for _ in range(3):
        refused = await store.reserve(ACME, "k1", [a_claim(a_quota(10), 3)])
        assert (refused.granted, refused.used) == (False, (8,))
        assert refused.ends_us[0] > refused.now_us
    assert (await store.reserve(ACME, "k1", [a_claim(a_quota(10), 2)])).used == (10,)


async def test_a_cost_that_fits_exactly_is_granted_and_no_more(store: LimitStore) -> None:
    for limit in (a_quota(3), a_rate(3)):
        granted = [(await store.reserve(ACME, "k1", [a_claim(limit)])).granted for _ in range(5)]
        assert granted == [True, True, True, False, False]


async def test_a_cost_above_the_limit_is_never_granted(store: LimitStore) -> None:
    for limit in (a_quota(3), a_rate(3)):
        assert not (await store.reserve(ACME, "k1", [a_claim(limit, 4)])).granted


@pytest.mark.parametrize("limit", [a_quota(0), a_quota(5), a_rate(5)])
async def test_a_cost_of_0_fits_when_nothing_is_left(store: LimitStore, limit: Limit) -> None:
    whole = limit.cap if isinstance(limit, QuotaLimit) else limit.burst
    assert (await store.reserve(ACME, "k1", [a_claim(limit, whole)])).granted
    assert not (await store.reserve(ACME, "k1", [a_claim(limit)])).granted
    free = await store.reserve(ACME, "k1", [a_claim(limit, 0)])
    assert free.granted
    assert await used_units(store, a_claim(limit)) == (whole,)


async def test_overage_is_granted_up_to_the_cap(store: LimitStore) -> None:
    quota = a_quota(10, cap=12)
    assert (await store.reserve(ACME, "k1", [a_claim(quota, 12)])).used == (12,)
    assert not (await store.reserve(ACME, "k1", [a_claim(quota)])).granted


async def test_I3_a_forced_claim_is_counted_beyond_the_cap(store: LimitStore) -> None:
    quota, rate = a_quota(2), a_rate(2)
    forced = [a_claim(quota, 2, forced=True), a_claim(rate, 2, forced=True)]
    for quota_used, rate_used in ((2, 2), (4, 4), (6, 4)):  # a rate's debt is at most one burst
        answer = await store.reserve(ACME, "k1", forced)
        assert answer.granted
        assert await used_units(store, *forced) == (quota_used, rate_used)
    assert not (await store.reserve(ACME, "k1", [a_claim(quota)])).granted
    assert not (await store.reserve(ACME, "k1", [a_claim(rate)])).granted


async def test_I3_a_forced_claim_does_not_force_another_one(store: LimitStore) -> None:
    claims = [a_claim(a_quota(0), forced=True), a_claim(a_rate(1), 2)]
    assert not (await store.reserve(ACME, "k1", claims)).granted
    assert await used_units(store, *claims) == (0, 0)


async def test_a_counter_stops_at_the_largest_exact_integer(store: LimitStore) -> None:
    claims = [a_claim(a_quota(5), UNBOUNDED - 1, forced=True)]
    assert (await store.reserve(ACME, "k1", claims)).used == (UNBOUNDED - 1,)
    assert (await store.reserve(ACME, "k1", claims)).used == (UNBOUNDED,)


async def test_teams_use_their_shares_and_what_is_not_guaranteed_to_others(
    store: LimitStore,
) -> None:
    quota, teams = a_quota(10), (Team("a", 40, lends=False), Team("b", 30, lends=False))

    def claims(team: str) -> list[Claim]:
        return [a_claim(quota), a_claim(team_share(quota, teams, team))]

    granted = {
        team: [(await store.reserve(ACME, "k1", claims(team))).granted for _ in range(9)].count(
            True
        )
        for team in ("b", "", "a")
    }
    assert granted == {"b": 6, "": 0, "a": 4}
    assert await used_units(store, *claims("a")) == (10, 4)
    assert await used_units(store, *claims("b")) == (10, 6)


async def test_limits_per_key_count_keys_and_other_limits_count_accounts(
    store: LimitStore,
) -> None:
    for limit in (a_quota(2, per="key"), a_rate(2, per="key")):
        claims = [a_claim(limit), a_claim(a_quota(100, id="all"))]
        for key_id in ("k1", "k2"):
            granted = [(await store.reserve(ACME, key_id, claims)).granted for _ in range(3)]
            assert granted == [True, True, False]
    assert await used_units(store, a_claim(a_quota(100, id="all")), key_id="k3") == (8,)


async def test_accounts_do_not_share_limits(store: LimitStore) -> None:
    claims = [a_claim(a_quota(1))]
    assert (await store.reserve(ACME, "k1", claims)).granted
    assert (await store.reserve(GLOBEX, "k1", claims)).granted
    assert not (await store.reserve(ACME, "k1", claims)).granted


async def test_a_rate_and_a_quota_with_one_id_are_two_limits(store: LimitStore) -> None:
    claims = [a_claim(a_quota(5, id="same"), 2), a_claim(a_rate(5, id="same"), 3)]
    await store.reserve(ACME, "k1", claims)
    assert await used_units(store, *claims) == (2, 3)


async def test_I7_a_changed_plan_applies_at_once_and_usage_stays(store: LimitStore) -> None:
    for small, large in ((a_quota(3), a_quota(5)), (a_rate(3), a_rate(5))):
        assert (await store.reserve(ACME, "k1", [a_claim(small, 3)])).granted
        assert not (await store.reserve(ACME, "k1", [a_claim(small)])).granted
        assert (await store.reserve(ACME, "k1", [a_claim(large)])).granted
        assert await used_units(store, a_claim(large)) == (4,)
        assert not (await store.reserve(ACME, "k1", [a_claim(small, 0)])).granted


async def test_peek_changes_nothing(store: LimitStore) -> None:
    claims = [a_claim(a_quota(9), 2), a_claim(a_rate(9), 2), a_claim(a_quota(9, id="new"))]
    await store.reserve(ACME, "k1", claims[:2])
    for _ in range(3):
        assert await used_units(store, *claims) == (2, 2, 0)
    forced = [replace(claim, forced=True) for claim in claims]
    assert await used_units(store, *forced) == (2, 2, 0)
    assert (await store.reserve(ACME, "k1", claims)).used[0] == 4


async def test_peek_answers_what_reserve_then_answers(store: LimitStore) -> None:
    claims = [a_claim(a_quota(7), 2), a_claim(a_rate(100), 3)]
    granted = []
    for _ in range(5):
        looked = await store.peek(ACME, "k1", claims)
        done = await store.reserve(ACME, "k1", claims)
        assert looked.granted is done.granted
        assert looked.ends_us == done.ends_us
        assert looked.now_us <= done.now_us
        assert done.used[0] == looked.used[0] + (2 if done.granted else 0)
        granted.append(done.granted)
    assert granted == [True, True, True, False, False]


async def test_I1_concurrent_requests_never_get_more_than_the_limit(store: LimitStore) -> None:
    claims = [a_claim(a_quota(70), 2), a_claim(a_rate(100), 1), a_claim(a_quota(99, per="key"))]
    answers = await asyncio.gather(
        *(store.reserve(ACME, f"k{number % 3}", claims) for number in range(300))
    )
    granted = [answer for answer in answers if answer.granted]
    assert len(granted) == 35
    assert sorted(answer.used[0] for answer in granted) == list(range(2, 71, 2))
    assert await used_units(store, *claims[:2]) == (70, 35)
