"""Redis goes away and comes back, with real servers: what passes meanwhile, and what is charged."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis

from sidecar.core.answers import Hold
from sidecar.core.model import Claim, ConcurrencyLimit
from sidecar.stores import keys
from tests.support.stores.local_stage import (
    LONG,
    Sidecar,
    a_quota,
    a_rate,
    a_sidecar,
    all_know_each_other,
    used,
)
from tests.support.stores.wire_ends import Server, a_server, until_up

QUOTA = a_quota(100)
CALL = (Claim(QUOTA, 1, False),)
CRITICAL = (Claim(QUOTA, 1, True),)
SLOTS = ConcurrencyLimit("in-flight", 4)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path) as server:
        yield server


@pytest.fixture
async def both(server: Server, tmp_path: Path) -> AsyncIterator[list[Sidecar]]:
    """Two sidecars that have seen 40 of 100 used."""
    async with AsyncExitStack() as stack:
        two = [
            await stack.enter_async_context(a_sidecar(server.url, tmp_path / "journal"))
            for _ in range(2)
        ]
        await all_know_each_other(two)
        assert await two[0].calls(40, *CALL) == 40
        for one in two:
            assert await one.call(Claim(QUOTA, 0, False))  # a look
            one.granted = 0
        yield two


@pytest.fixture
async def alone(server: Server, tmp_path: Path) -> AsyncIterator[Sidecar]:
    """The only sidecar, connected."""
    async with a_sidecar(server.url, tmp_path / "journal") as one:
        await all_know_each_other([one])
        yield one


async def test_I1_two_sidecars_let_pass_what_was_left_and_not_one_more(
    server: Server, both: list[Sidecar]
) -> None:
    server.pause()
    for one in both:
        await one.until_alone()
    assert [await one.calls(50, *CALL) for one in both] == [30, 30]
    server.go_on()
    for one in both:
        await one.until_back()
    assert used(server.url, QUOTA) == 40 + sum(one.granted for one in both) == 100
    assert [await one.call(*CALL) for one in both] == [False, False]


async def test_I3_critical_calls_all_pass_and_are_charged_when_redis_is_back(
    server: Server, both: list[Sidecar]
) -> None:
    server.pause()
    for one in both:
        await one.until_alone()
    passed = [await one.calls(25, *CRITICAL, when_down="critical") for one in both]
    assert passed == [25, 25]
    assert [await one.calls(9, *CALL) for one in both] == [5, 5]  # of 30
    assert [await one.call(*CALL) for one in both] == [None, None]  # may be there is some left
    passed = [await one.calls(45, *CRITICAL, when_down="critical") for one in both]
    assert [await one.call(*CALL) for one in both] == [False, False]  # there is not
    server.go_on()
    for one in both:
        await one.until_back()
    assert used(server.url, QUOTA) == 40 + 150


async def test_I5_what_passed_before_redis_started_empty_is_charged(
    server: Server, both: list[Sidecar]
) -> None:
    server.kill()
    for one in both:
        await one.until_alone()
        assert await one.calls(20, *CALL) == 20
    server.start()
    for one in both:
        await one.until_back()
    assert used(server.url, QUOTA) == sum(one.granted for one in both) == 40


async def test_what_the_plan_says_of_a_redis_that_is_gone_is_done(
    server: Server, alone: Sidecar
) -> None:
    assert await alone.calls(90, *CALL) == 90
    server.kill()
    await alone.until_alone()
    assert await alone.calls(20, *CALL, when_down="deny") == 0
    assert await alone.calls(20, *CALL, when_down="allow") == 20  # past the limit
    assert await alone.calls(20, *CALL, when_down="local") == 0
    assert (await alone.call(*CALL, when_down="local")) is False  # all of it is known to be used
    assert alone.store.admitted == 20
    assert all(answer.alone for answer in alone.answers[-20:] if answer.granted)
    assert alone.store.entries == 20
    server.start()
    await alone.until_back()
    assert used(server.url, QUOTA) == 20
    assert not (await alone.store.redis.peek(alone.account, "k1", CALL)).alone


async def test_I2_a_call_that_redis_granted_too_late_is_charged_once(
    server: Server, alone: Sidecar
) -> None:
    assert await alone.calls(10, *CALL) == 10
    server.pause()
    try:
        assert await alone.calls(5, *CALL) == 5  # the first ones are on their way to Redis
    finally:
        server.go_on()
    await until_up(alone.wire)
    await alone.until_back()
    async with asyncio.timeout(20):
        while alone.store.redis.refunds == 0 or used(server.url, QUOTA) != alone.granted:
            await asyncio.sleep(0.01)
    assert alone.granted == 15


async def test_connections_that_are_killed_under_load_charge_no_call_less_than_once(
    server: Server, alone: Sidecar
) -> None:
    """What was on its way when a connection was lost is charged, and may be charged twice."""
    wide = (Claim(a_quota(1_000_000), 1, False),)
    callers, kills = 20, 5
    done = asyncio.Event()

    async def call() -> None:
        while not done.is_set():
            assert await alone.call(*wide) is True
            await asyncio.sleep(0)

    running = [asyncio.ensure_future(call()) for _ in range(callers)]
    with redis.Redis.from_url(server.url) as client:
        for kill in range(1, kills + 1):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            async with asyncio.timeout(20):
                while alone.wire.reconnects < kill or alone.store.keeper.absence is not None:
                    await asyncio.sleep(0.005)
    done.set()
    await asyncio.gather(*running)
    await alone.until_back()
    assert alone.store.admitted > 0
    assert alone.granted <= used(server.url, wide[0].limit) <= alone.granted + callers * kills


async def test_I1_a_bucket_gives_no_more_in_all_than_it_holds(
    server: Server, both: list[Sidecar]
) -> None:
    """However the calls fall to the time with Redis, the time without, and the time after."""
    slow = (Claim(a_rate(20), 1, False),)
    for one in both:
        assert await one.calls(2, *slow) == 2
    server.pause()
    for one in both:
        await one.until_alone()
    passed = [await one.calls(20, *slow) for one in both]
    assert sum(passed) <= 17  # of 16, and what the first has not seen the second use
    assert all(7 <= number <= 9 for number in passed)
    server.go_on()
    for one in both:
        await one.until_back()
    for one in both:  # what each tells of its bucket has arrived
        await one.store.redis.peek(one.account, "k1", slow)
    assert sum([await one.calls(5, *slow) for one in both]) == 0


async def test_calls_in_flight_share_the_slots_and_hold_them_when_redis_is_back(
    server: Server, both: list[Sidecar]
) -> None:
    claims = (*CALL, Claim(SLOTS, 1, False))
    holds = [Hold(f"h{number}", LONG) for number in range(6)]
    one = both[0]
    assert await one.call(*claims, hold=holds[0])  # holds a slot in Redis
    server.pause()
    await one.until_alone()
    assert await one.call(*claims, hold=holds[1])
    assert await one.call(*claims, hold=holds[2]) is None  # two of four are this sidecar's
    one.store.settle(one.account, "k1", claims, "h0")
    assert await one.call(*claims, hold=holds[3])
    server.go_on()
    await one.until_back(held=2)
    slots = (Claim(SLOTS, 1, False),)
    async with asyncio.timeout(20):
        while (await one.store.redis.peek(one.account, "k1", slots)).used != (2,):
            await asyncio.sleep(0.01)
    costly = (Claim(QUOTA, 7, False), Claim(SLOTS, 1, False))
    for name in ("h1", "h3"):
        one.store.settle(one.account, "k1", costly, name)
    await one.until_back()
    await one.store.redis.settler.close()
    assert (await one.store.redis.peek(one.account, "k1", slots)).used == (0,)
    assert used(server.url, QUOTA) == 40 + 1 + 2 * 7


async def test_a_redis_that_takes_no_writes_is_counted_without(
    server: Server, alone: Sidecar
) -> None:
    assert await alone.calls(10, *CALL) == 10
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        await alone.calls(1, *CALL)
        async with asyncio.timeout(20):
            while not alone.store.keeper.away:
                await asyncio.sleep(0.01)
        assert await alone.calls(200, *CALL) == 89
        assert await alone.calls(5, *CRITICAL, when_down="critical") == 5
        client.config_set("maxmemory", "0")
    await alone.until_back()
    assert used(server.url, QUOTA) == alone.granted == 105


async def test_thresholds_that_were_passed_meanwhile_are_told_by_the_next_call(
    server: Server, alone: Sidecar
) -> None:
    told = (Claim(a_quota(100, notices=(50, 80)), 1, False),)
    assert await alone.calls(40, *told) == 40
    server.pause()
    await alone.until_alone()
    assert await alone.calls(45, *told) == 45
    server.go_on()
    await alone.until_back()
    first, second = [(await alone.call(*told), alone.answers[-1])[1] for _ in range(2)]
    assert (first.used, first.besides[0].told) == ((86,), 0)
    assert not second.besides or second.besides[0].told == 80


async def test_I9_nothing_is_left_of_an_absence_when_it_is_over(
    server: Server, alone: Sidecar, tmp_path: Path
) -> None:
    server.pause()
    await alone.until_alone()
    assert await alone.calls(5, *CALL) == 5
    await alone.until_written()
    [journal] = (tmp_path / "journal").glob("*.journal")
    server.go_on()
    await alone.until_back()
    async with asyncio.timeout(20):
        while journal.exists():
            await asyncio.sleep(0.01)
    assert len(alone.store._alone) == 0
    with redis.Redis.from_url(server.url) as client:
        assert all(
            client.ttl(name) > 0 for name in client.scan_iter(f"{keys.state('qs', '')[:2]}*")
        )
