"""A master of a cluster is killed once under load, and the tests check the results.

Replication is asynchronous: reservations that the replica did not have are lost, and reported.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import uvloop

from sidecar.core.model import Account
from sidecar.errors import SinkDown
from sidecar.metering.sinks.redis import RedisSink
from sidecar.stores import Connection, RedisLimitStore, keys
from sidecar.stores.connection.cluster import Cluster
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.connection.wire import encode
from tests.support.events import an_event, ids
from tests.support.stores.clusters import ACluster
from tests.support.stores.requests import Crowd, a_crowd, an_account, claims, connected, used
from tests.support.stores.requests import slot_of_account as slot_of_
from tests.support.stores.site import ask, client

STREAM = keys.events("qs")
Measured = Callable[[str, object], None]
FOLLOWED_WITHIN_S = 50.0  # usually 4 to 5: node timeout, election, reading the map


@dataclass
class Failover:
    """The results of one failover."""

    killed: int
    accounts: dict[int, Account]  # one per master
    crowd: Crowd
    took_s: float = 0.0
    error: str = ""
    counted: dict[str, int] = field(default_factory=dict)
    once: list[Any] = field(default_factory=list)  # replies to commands with unique names
    names: dict[str, str] = field(default_factory=dict)  # and their counts
    sent: list[bytes] = field(default_factory=list)  # events that the sink reported as delivered
    down: int = 0  # batches that the sink had to repeat
    arrived: list[bytes] = field(default_factory=list)
    later: list[int] = field(default_factory=list)  # counts after the old master restarted
    old: dict[str, Any] = field(default_factory=dict)  # INFO of the old master
    masters: set[int] = field(default_factory=set)  # as the connection then knows them

    @property
    def lost_account(self) -> Account:
        return self.accounts[self.killed]


@pytest.fixture(scope="module")
def failover(_cluster: ACluster) -> Failover:
    _cluster.site.revive()
    _cluster.until_whole()
    _cluster.flush()
    return uvloop.run(fail_over(_cluster))


def one_of_each(cluster: ACluster) -> dict[int, Account]:
    accounts: dict[int, Account] = {}
    for port in cluster.masters():
        served = cluster.slots_of(port)
        every = map(an_account, range(1_000))
        accounts[port] = next(one for one in every if slot_of_(one) in served)
    return accounts


async def fail_over(cluster: ACluster) -> Failover:
    killed, accounts = cluster.master_of(slot_of(STREAM)), one_of_each(cluster)
    async with connected(cluster.url, timeout_s=1) as redis:
        store = RedisLimitStore(redis)
        async with a_crowd(store, list(accounts.values())) as crowd:
            result = Failover(killed, accounts, crowd)
            tasks = [
                asyncio.create_task(count_each_once(redis, result)),
                asyncio.create_task(ship(cluster, result)),
            ]
            await crowd.until_answered(50)
            await kill_and_follow(cluster, redis, result)
            await crowd.until_answered(50)
            await asyncio.gather(*tasks)
        for account in accounts.values():
            result.counted[account.id] = await used(store, account)
        await bring_back(cluster, redis, result)
    return result


async def kill_and_follow(cluster: ACluster, redis: Connection, result: Failover) -> None:
    at = time.monotonic()
    await asyncio.to_thread(cluster.site.kill, result.killed)
    async with asyncio.timeout(FOLLOWED_WITHIN_S):
        while redis.up:
            await asyncio.sleep(0.001)
        result.error = redis.last_error
        while not redis.up:
            assert redis.reachable
            await asyncio.sleep(0.005)
    result.took_s = time.monotonic() - at


async def count_each_once(redis: Connection, result: Failover) -> None:
    """Commands in flight when the master dies, each with a unique name."""
    name, slot = f"{{{result.lost_account.id}}}:once", slot_of_(result.lost_account)
    replies = []
    while redis.up:
        replies += [
            redis.execute(encode(b"HINCRBY", name, f"n{len(replies) + more}", 1), None, slot)
            for more in range(500)
        ]
        await asyncio.sleep(0)
    result.once = list(await asyncio.gather(*replies, return_exceptions=True))
    while not redis.up:
        await asyncio.sleep(0.005)
    flat = await redis.execute(encode(b"HGETALL", name), None, slot)
    result.names = dict(zip(flat[::2], flat[1::2], strict=True))


async def ship(cluster: ACluster, result: Failover) -> None:
    sink = RedisSink(cluster.url, STREAM, timeout_s=1)
    after = 0
    while after < 5:
        batch = [orjson.dumps(an_event(len(result.sent) + number)) for number in range(3)]
        try:
            await sink.send(batch)
        except SinkDown:
            result.down += 1
            await asyncio.sleep(0.02)
            continue
        result.sent += batch
        after += result.down > 0
        await asyncio.sleep(0)
    await sink.close()
    master = cluster.master_of(slot_of(STREAM))
    entries = ask(master, "XRANGE", STREAM, "-", "+")
    result.arrived = [fields["event"].encode() for _, fields in entries]


async def bring_back(cluster: ACluster, redis: Connection, result: Failover) -> None:
    """Restart the old master, which is empty and still has its slots in its configuration."""
    cluster.site.start(result.killed)
    store = RedisLimitStore(redis)
    for _ in range(20):
        result.later.append((await store.reserve(result.lost_account, "k1", claims())).used[0])
    await asyncio.to_thread(cluster.until_whole)
    with client(result.killed) as connection:
        result.old = connection.info("replication") | connection.info("commandstats")
    assert isinstance(redis, Cluster)
    result.masters = {node.address.port for node in redis._masters}


def test_accounts_of_the_killed_master_fail_until_its_replica_is_master(
    failover: Failover, record_testsuite_property: Measured
) -> None:
    assert failover.error.startswith(f"shard 127.0.0.1:{failover.killed}")
    assert failover.crowd.unknown[failover.lost_account.id] > 0
    record_testsuite_property("seconds until followed", round(failover.took_s, 2))


def test_accounts_of_other_shards_are_not_affected(failover: Failover) -> None:
    for port, account in failover.accounts.items():
        if port != failover.killed:
            assert failover.crowd.unknown[account.id] == 0, failover.crowd.errors
            assert failover.counted[account.id] == failover.crowd.granted[account.id]


def test_I1_only_requests_are_counted_and_only_unreplicated_ones_are_lost(
    failover: Failover, record_testsuite_property: Measured
) -> None:
    name, crowd = failover.lost_account.id, failover.crowd
    assert failover.counted[name] <= crowd.granted[name] + crowd.unknown[name]
    lost = crowd.granted[name] - failover.counted[name]
    record_testsuite_property("acknowledged grants that were lost", max(lost, 0))
    assert lost < crowd.granted[name]


def test_a_command_that_may_have_been_executed_is_not_repeated(failover: Failover) -> None:
    answers = [one for one in failover.once if isinstance(one, int)]
    lost = [one for one in failover.once if isinstance(one, Exception)]
    assert answers
    assert lost
    assert set(answers) == {1}
    assert set(failover.names.values()) == {b"1"}


def test_the_sink_is_down_during_the_failover_and_then_delivers_to_the_new_master(
    failover: Failover, record_testsuite_property: Measured
) -> None:
    assert failover.down > 0
    sent, arrived = ids(failover.sent), ids(failover.arrived)
    assert arrived[-15:] == sent[-15:]  # those that were sent after it
    record_testsuite_property("acknowledged events that were lost", len(set(sent) - set(arrived)))


def test_the_restarted_old_master_is_a_replica_and_gets_no_commands(
    failover: Failover,
) -> None:
    first = failover.later[0]
    assert failover.later == list(range(first, first + 20))
    assert failover.old["role"] == "slave"
    assert "cmdstat_evalsha" not in failover.old
    assert failover.killed not in failover.masters
