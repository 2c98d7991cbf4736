"""Redis outages with real servers: what is allowed during one, and what is charged after it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis

from sidecar.core.answers import Hold
from sidecar.core.kinds import ConcurrencyLimit
from sidecar.core.model import Claim
from sidecar.stores import keys
from tests.support.stores.local_stage import (
    LONG,
    Sidecar,
    a_quota,
    a_rate,
    a_sidecar,
    until_all_are_known,
    used,
)
from tests.support.stores.wire_ends import Server, a_server, until_up

QUOTA = a_quota(100)
ONE = (Claim(QUOTA, 1, False),)
CRITICAL = (Claim(QUOTA, 1, True),)
SLOTS = ConcurrencyLimit("in-flight", 4)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path) as server:
        yield server


@pytest.fixture
async def both(server: Server, tmp_path: Path) -> AsyncIterator[list[Sidecar]]:
    """Two sidecars that know 40 of 100 units as used."""
    async with AsyncExitStack() as stack:
        two = [
            await stack.enter_async_context(a_sidecar(server.url, tmp_path / "journal"))
            for _ in range(2)
        ]
        await until_all_are_known(two)
        assert await two[0].requests(40, *ONE) == 40
        for one in two:
            assert await one.request(Claim(QUOTA, 0, False))  # for a snapshot
            one.granted = 0
        yield two


@pytest.fixture
async def sidecar(server: Server, tmp_path: Path) -> AsyncIterator[Sidecar]:
    """A single sidecar, connected."""
    async with a_sidecar(server.url, tmp_path / "journal") as one:
        await until_all_are_known([one])
        yield one


async def test_a_sidecar_that_stops_counts_no_more_for_the_others(
    server: Server, sidecar: Sidecar, tmp_path: Path
) -> None:
    """At once: its share of an outage would not be used for five seconds."""
    members = keys.sidecars("qs")
    with redis.Redis.from_url(server.url) as client:
        async with a_sidecar(server.url, tmp_path / "other") as other:
            await until_all_are_known([sidecar, other])
            assert client.zcard(members) == 2
        assert client.zcard(members) == 1


async def test_I1_two_sidecars_allow_exactly_what_was_left(
    server: Server, both: list[Sidecar]
) -> None:
    server.pause()
    for one in both:
        await one.until_local()
    assert [await one.requests(50, *ONE) for one in both] == [30, 30]
    server.go_on()
    for one in both:
        await one.until_back()
    assert used(server.url, QUOTA) == 40 + sum(one.granted for one in both) == 100
    assert [await one.request(*ONE) for one in both] == [False, False]


async def test_I3_critical_requests_are_all_allowed_and_charged_after_the_outage(
    server: Server, both: list[Sidecar]
) -> None:
    server.pause()
    for one in both:
        await one.until_local()
    granted = [await one.requests(25, *CRITICAL, when_down="critical") for one in both]
    assert granted == [25, 25]
    assert [await one.requests(9, *ONE) for one in both] == [5, 5]  # of 30
    assert [await one.request(*ONE) for one in both] == [
        None,
        None,
    ]  # others may have units
    granted = [await one.requests(45, *CRITICAL, when_down="critical") for one in both]
    assert [await one.request(*ONE) for one in both] == [False, False]  # by now, they have not
    server.go_on()
    for one in both:
        await one.until_back()
    assert used(server.url, QUOTA) == 40 + 150


async def test_I5_a_redis_that_starts_empty_is_charged_with_all_local_requests(
    server: Server, both: list[Sidecar]
) -> None:
    server.kill()
    for one in both:
        await one.until_local()
        assert await one.requests(20, *ONE) == 20
    server.start()
    for one in both:
        await one.until_back()
    assert used(server.url, QUOTA) == sum(one.granted for one in both) == 40


async def test_when_store_is_down_decides_about_requests_during_an_outage(
    server: Server, sidecar: Sidecar
) -> None:
    assert await sidecar.requests(90, *ONE) == 90
    server.kill()
    await sidecar.until_local()
    assert await sidecar.requests(20, *ONE, when_down="deny") == 0
    assert await sidecar.requests(20, *ONE, when_down="allow") == 20  # beyond the limit
    assert await sidecar.requests(20, *ONE, when_down="local") == 0
    assert (await sidecar.request(*ONE, when_down="local")) is False  # all units are used
    assert sidecar.store.stats().allowed_locally == 20
    assert all(answer.local for answer in sidecar.answers[-20:] if answer.granted)
    assert sidecar.store.uncharged == 20
    server.start()
    await sidecar.until_back()
    assert used(server.url, QUOTA) == 20
    assert not (await sidecar.store.redis.peek(sidecar.account, "k1", ONE)).local


async def test_I2_a_request_that_redis_granted_too_late_is_charged_once(
    server: Server, sidecar: Sidecar
) -> None:
    assert await sidecar.requests(10, *ONE) == 10
    server.pause()
    try:
        assert await sidecar.requests(5, *ONE) == 5  # Redis gets the first ones
    finally:
        server.go_on()
    await until_up(sidecar.wire)
    await sidecar.until_back()
    async with asyncio.timeout(20):
        while (
            sidecar.store.redis.late_reservations == 0 or used(server.url, QUOTA) != sidecar.granted
        ):
            await asyncio.sleep(0.01)
    assert sidecar.granted == 15


async def test_connections_that_are_killed_under_load_charge_each_request_at_least_once(
    server: Server, sidecar: Sidecar
) -> None:
    """A request in flight when its connection is lost is charged, maybe twice."""
    wide = (Claim(a_quota(1_000_000), 1, False),)
    clients, kills = 20, 5
    done = asyncio.Event()

    async def client() -> None:
        while not done.is_set():
            assert await sidecar.request(*wide) is True
            await asyncio.sleep(0)

    running = [asyncio.ensure_future(client()) for _ in range(clients)]
    with redis.Redis.from_url(server.url) as admin:
        for kill in range(1, kills + 1):
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            async with asyncio.timeout(20):
                while sidecar.wire.reconnects < kill or sidecar.store.mode.outage is not None:
                    await asyncio.sleep(0.005)
    done.set()
    await asyncio.gather(*running)
    await sidecar.until_back()
    assert sidecar.store.stats().allowed_locally > 0
    assert sidecar.granted <= used(server.url, wide[0].limit) <= sidecar.granted + clients * kills


async def test_I1_a_bucket_never_grants_more_than_its_burst(
    server: Server, both: list[Sidecar]
) -> None:
    """Before, during and after an outage together."""
    slow = (Claim(a_rate(20), 1, False),)
    for one in both:
        assert await one.requests(2, *slow) == 2
    server.pause()
    for one in both:
        await one.until_local()
    granted = [await one.requests(20, *slow) for one in both]
    assert sum(granted) <= 17  # of 16, and what the first does not know of the second
    assert all(7 <= number <= 9 for number in granted)
    server.go_on()
    for one in both:
        await one.until_back()
    for one in both:  # the levels of both buckets have arrived
        await one.store.redis.peek(one.account, "k1", slow)
    assert sum([await one.requests(5, *slow) for one in both]) == 0


async def test_requests_in_flight_share_the_slots_and_keep_them_after_the_outage(
    server: Server, both: list[Sidecar]
) -> None:
    claims = (*ONE, Claim(SLOTS, 1, False))
    holds = [Hold(f"h{number}", LONG) for number in range(6)]
    one = both[0]
    assert await one.request(*claims, hold=holds[0])  # takes a slot in Redis
    server.pause()
    await one.until_local()
    assert await one.request(*claims, hold=holds[1])
    assert await one.request(*claims, hold=holds[2]) is None  # two of four are this sidecar's
    one.store.settle(one.account, "k1", claims, "h0")
    assert await one.request(*claims, hold=holds[3])
    server.go_on()
    await one.until_back(in_flight=2)
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


async def test_a_redis_that_takes_no_writes_is_an_outage(server: Server, sidecar: Sidecar) -> None:
    assert await sidecar.requests(10, *ONE) == 10
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        await sidecar.requests(1, *ONE)
        async with asyncio.timeout(20):
            while not sidecar.store.mode.all_local:
                await asyncio.sleep(0.01)
        assert await sidecar.requests(200, *ONE) == 89
        assert await sidecar.requests(5, *CRITICAL, when_down="critical") == 5
        client.config_set("maxmemory", "0")
    await sidecar.until_back()
    assert used(server.url, QUOTA) == sidecar.granted == 105


async def test_thresholds_crossed_during_an_outage_are_reported_by_the_next_request(
    server: Server, sidecar: Sidecar
) -> None:
    notified = (Claim(a_quota(100, notices=(50, 80)), 1, False),)
    assert await sidecar.requests(40, *notified) == 40
    server.pause()
    await sidecar.until_local()
    assert await sidecar.requests(45, *notified) == 45
    server.go_on()
    await sidecar.until_back()
    first, second = [(await sidecar.request(*notified), sidecar.answers[-1])[1] for _ in range(2)]
    assert (first.used, first.details[0].notified) == ((86,), 0)
    assert not second.details or second.details[0].notified == 80


async def test_I9_nothing_is_left_of_an_outage_after_it(
    server: Server, sidecar: Sidecar, tmp_path: Path
) -> None:
    server.pause()
    await sidecar.until_local()
    assert await sidecar.requests(5, *ONE) == 5
    await sidecar.until_written()
    [journal] = (tmp_path / "journal").glob("*.journal")
    server.go_on()
    await sidecar.until_back()
    async with asyncio.timeout(20):
        while journal.exists():
            await asyncio.sleep(0.01)
    assert len(sidecar.store._local) == 0
    with redis.Redis.from_url(server.url) as client:
        assert all(
            client.ttl(name) > 0 for name in client.scan_iter(f"{keys.state('qs', '')[:2]}*")
        )
