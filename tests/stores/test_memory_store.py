"""Limits in memory, on a clock that the test drives."""

from dataclasses import dataclass

from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim
from sidecar.core.periods import bounds
from sidecar.stores import MemoryLimitStore

ACME = Account("acme", "pro", "America/New_York")
HOUR_US = 3_600 * MICRO
START = 1_790_000_000 * MICRO // HOUR_US * HOUR_US  # a full hour
HOURLY = Claim(QuotaLimit("hourly", "requests", 2, "hour", 2), 1, False)
SECONDLY = Claim(RateLimit("secondly", "requests", 1, MICRO, 2, (1, 1)), 1, False)


@dataclass
class Hand:
    """A clock that the test sets."""

    now_us: int = START

    def __call__(self) -> int:
        return self.now_us


async def granted(store: MemoryLimitStore, *claims: Claim, account: Account = ACME) -> bool:
    return (await store.reserve(account, "k1", claims)).granted


async def test_a_quota_starts_from_0_with_its_period() -> None:
    clock = Hand()
    store = MemoryLimitStore(clock)
    assert [await granted(store, HOURLY) for _ in range(3)] == [True, True, False]
    clock.now_us = START + HOUR_US - 1
    assert not await granted(store, HOURLY)
    clock.now_us = START + HOUR_US
    answer = await store.reserve(ACME, "k1", [HOURLY])
    assert (answer.granted, answer.used, answer.now_us) == (True, (1,), clock.now_us)
    assert answer.ends_us == (START + 2 * HOUR_US,)


async def test_periods_are_in_the_accounts_time_zone() -> None:
    daily = Claim(QuotaLimit("daily", "requests", 1, "day", 1), 1, False)
    clock = Hand()
    store = MemoryLimitStore(clock)
    assert await granted(store, daily)
    clock.now_us = bounds("day", "America/New_York", None, START)[1] - 1
    assert not await granted(store, daily)
    clock.now_us += 1
    assert await granted(store, daily)


async def test_a_bucket_refills_with_the_clock_up_to_its_burst() -> None:
    clock = Hand()
    store = MemoryLimitStore(clock)
    assert [await granted(store, SECONDLY) for _ in range(3)] == [True, True, False]
    clock.now_us += MICRO - 1
    assert not await granted(store, SECONDLY)
    clock.now_us += 1
    assert [await granted(store, SECONDLY) for _ in range(2)] == [True, False]
    clock.now_us += 1000 * MICRO
    assert [await granted(store, SECONDLY) for _ in range(3)] == [True, True, False]


async def test_I8_a_clock_that_steps_back_grants_nothing() -> None:
    clock = Hand(START + HOUR_US)
    store = MemoryLimitStore(clock)
    for claim in (HOURLY, SECONDLY):
        assert [await granted(store, claim) for _ in range(3)] == [True, True, False]
    clock.now_us = START
    for claim in (HOURLY, SECONDLY):
        assert not (await store.peek(ACME, "k1", [claim])).granted
        assert not await granted(store, claim)
    clock.now_us = START + HOUR_US
    for claim in (HOURLY, SECONDLY):
        assert not await granted(store, claim)


async def test_I9_the_account_with_the_oldest_change_is_forgotten_first() -> None:
    store = MemoryLimitStore(Hand(), accounts=2)
    first, second, third = (Account(name, "pro") for name in ("first", "second", "third"))
    for account in (first, second, first):
        assert await granted(store, HOURLY, account=account)
    # Refusals and peeks are not changes.
    assert not await granted(store, Claim(HOURLY.limit, 3, False), account=second)
    await store.peek(second, "k1", [HOURLY])
    assert await granted(store, HOURLY, account=third)
    used = [(await store.peek(one, "k1", [HOURLY])).used for one in (first, second, third)]
    assert used == [(2,), (0,), (1,)]


async def test_I9_refused_requests_take_no_room() -> None:
    store = MemoryLimitStore(Hand(), accounts=2)
    assert await granted(store, HOURLY)
    dear = Claim(HOURLY.limit, 3, False)
    for number in range(10):
        assert not await granted(store, dear, account=Account(f"other-{number}", "pro"))
    assert (await store.peek(ACME, "k1", [HOURLY])).used == (1,)
