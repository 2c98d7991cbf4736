"""The master that sentinels name: found, followed, and left when it has another role."""

import asyncio
import time
from collections.abc import Callable, Iterator

import orjson
import pytest

from sidecar.errors import SinkDown, StoreUnavailable
from sidecar.metering.sinks.redis import RedisSink
from sidecar.stores import Connection, RedisLimitStore, keys
from sidecar.stores.connection.sentinel import SentinelWire
from sidecar.stores.connection.wire import encode
from tests.support.events import an_event, ids
from tests.support.stores.binaries import binaries
from tests.support.stores.requests import Crowd, a_crowd, an_account, claims, connected, until, used
from tests.support.stores.sentinels import NAME, Guarded, guarded
from tests.support.stores.site import ask, client, cluster_ports

Measured = Callable[[str, object], None]
ACCOUNT = an_account(1)
STREAM = keys.events("qs")
FOLLOWED_WITHIN_S = 50.0  # usually 3: down-after and an election


@pytest.fixture
def alone() -> Iterator[Guarded]:
    """A master and one sentinel with default timing."""
    with guarded(binaries()[0], sentinels=1, replicas=0, quick=False) as servers:
        yield servers


def at(redis: Connection) -> int:
    """The port of the connection's server."""
    assert isinstance(redis, SentinelWire)
    return int(str(redis.at).rpartition(":")[2])


def counted_at(port: int) -> str | None:
    """How often the server has run reserve since it started."""
    with client(port) as connection:
        known = connection.info("commandstats").get("cmdstat_evalsha")
    return str(known["calls"]) if known else None


async def test_the_master_is_found_through_any_sentinel(sentinels: Guarded) -> None:
    nobody = cluster_ports(1)[0]
    url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{sentinels.sentinels[2]}/{NAME}/3"
    async with connected(url) as redis:
        assert redis.up, redis.last_error
        assert (await RedisLimitStore(redis).reserve(ACCOUNT, "k1", claims())).granted
    assert ask(sentinels.master(), "DBSIZE") == 0
    with client(sentinels.master(), db=3) as connection:
        assert connection.dbsize() == 1


async def test_I1_a_killed_master_is_replaced_and_gets_no_commands_after_its_restart(
    sentinels: Guarded, record_testsuite_property: Measured
) -> None:
    old = sentinels.master()
    async with connected(sentinels.url, timeout_s=1) as redis:
        store = RedisLimitStore(redis)
        async with a_crowd(store, [ACCOUNT]) as crowd:
            await crowd.until_answered(50)
            shipping = asyncio.create_task(ship(sentinels))
            took = await kill_and_follow(sentinels, redis, old)
            sentinels.site.start(old)  # at first, it still has the role of master
            await crowd.until_answered(200)
            await asyncio.to_thread(sentinels.until_whole)
            await crowd.until_answered(50)
            assert at(redis) == sentinels.master() != old
            sent = await shipping
        entries = ask(sentinels.master(), "XRANGE", STREAM, "-", "+")
        lost = crowd.granted[ACCOUNT.id] - await used(store, ACCOUNT)
    arrived = [fields["event"].encode() for _, fields in entries]
    assert ids(arrived)[-15:] == ids(sent)[-15:]
    assert counted_at(old) is None
    assert -lost <= crowd.unknown[ACCOUNT.id]  # nothing is counted twice
    assert crowd.unknown[ACCOUNT.id] and lost < crowd.granted[ACCOUNT.id]
    record_testsuite_property("sentinel: seconds until followed", round(took, 2))
    record_testsuite_property("sentinel: acknowledged grants that were lost", max(lost, 0))


async def kill_and_follow(sentinels: Guarded, redis: Connection, old: int) -> float:
    killed = time.monotonic()
    await asyncio.to_thread(sentinels.site.kill, old)
    async with asyncio.timeout(FOLLOWED_WITHIN_S):
        await until(lambda: not redis.up)
        assert redis.last_error.startswith(f"127.0.0.1:{old}")
        await until(lambda: redis.up)
    return time.monotonic() - killed


async def ship(sentinels: Guarded) -> list[bytes]:
    """Ship through a failover; the events that the sink reported as delivered."""
    sink, down, after = RedisSink(sentinels.url, STREAM, timeout_s=1), 0, 0
    sent: list[bytes] = []
    async with asyncio.timeout(60):
        while after < 5:
            batch = [orjson.dumps(an_event(len(sent) + number)) for number in range(3)]
            try:
                await sink.send(batch)
                sent += batch
                after += down > 0
            except SinkDown:
                down += 1
                await asyncio.sleep(0.02)
    await sink.close()
    return sent


async def test_I1_a_demoted_running_master_is_left_at_once(sentinels: Guarded) -> None:
    old = sentinels.master()
    async with connected(sentinels.url, timeout_s=1) as redis:
        store = RedisLimitStore(redis)
        async with a_crowd(store, [ACCOUNT]) as crowd:
            await crowd.until_answered(50)
            await asyncio.to_thread(sentinels.fail_over)
            await until(lambda: redis.up and at(redis) != old)
            before = counted_at(old)
            await crowd.until_answered(50)
            await asyncio.to_thread(sentinels.until_whole)
            await crowd.until_answered(50)
        not_twice(crowd, await used(store, ACCOUNT))
    assert counted_at(old) == before


def not_twice(crowd: Crowd, counted: int) -> None:
    assert counted <= crowd.granted[ACCOUNT.id] + crowd.unknown[ACCOUNT.id]


async def test_a_server_that_reports_another_role_is_left(alone: Guarded) -> None:
    port = alone.servers[0]
    async with connected(alone.url) as redis:
        assert redis.up
        ask(port, "REPLICAOF", "127.0.0.1", cluster_ports(1)[0])  # without the sentinel
        await until(lambda: "not a master, although the sentinels name it" in redis.last_error)
        assert redis.last_error.startswith(f"127.0.0.1:{port}")
        with pytest.raises(StoreUnavailable, match="not a master"):
            await redis.execute(encode(b"PING"))
        ask(port, "REPLICAOF", "NO", "ONE")
        await until(lambda: redis.up)


async def test_a_reply_of_a_replica_starts_a_search_for_the_master_at_once(alone: Guarded) -> None:
    async with connected(alone.url) as redis:
        ask(alone.servers[0], "REPLICAOF", "127.0.0.1", cluster_ports(1)[0])
        with pytest.raises(StoreUnavailable, match=r"READONLY|not a master|lost"):
            await RedisLimitStore(redis).reserve(ACCOUNT, "k1", claims())
        await until(lambda: not redis.up)


async def test_an_available_master_stays_while_no_sentinel_is_available(alone: Guarded) -> None:
    async with connected(alone.url) as redis:
        assert isinstance(redis, SentinelWire)
        alone.site.kill(alone.sentinels[0])
        await until(lambda: not any(one.up for one in redis._sentinels))
        redis._doubt.set()  # check now
        await until(lambda: not redis._doubt.is_set())
        for _ in range(50):
            assert await redis.execute(encode(b"PING")) == b"PONG"
        assert redis.up and redis.reconnects == 0


async def test_an_unknown_master_name_is_reported(sentinels: Guarded) -> None:
    async with connected(sentinels.url.replace(NAME, "other")) as redis:
        assert not redis.up
        assert redis.last_error.startswith('no sentinel names the master "other": 127.0.0.1:')


async def test_unavailable_sentinels_are_reported() -> None:
    one, other = cluster_ports(2)
    async with connected(f"redis+sentinel://127.0.0.1:{one},127.0.0.1:{other}/main") as redis:
        assert not redis.up
        for port in (one, other):
            assert f"127.0.0.1:{port} refuses connections" in redis.last_error
