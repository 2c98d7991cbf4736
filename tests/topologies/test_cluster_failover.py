"""A master of a cluster is killed once while everything uses it; then it is looked at what
happened. Replication is asynchronous: grants that the replica had not got are lost, and said."""

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
FOLLOWED_WITHIN_S = 50.0  # four to five here: a node timeout, an election, a look at the map


@dataclass
class Failover:
    """What was seen by whom."""

    killed: int
    accounts: dict[int, Account]  # one for every master
    crowd: Crowd
    took_s: float = 0.0
    why: str = ""
    counted: dict[str, int] = field(default_factory=dict)
    once: list[Any] = field(default_factory=list)  # replies to commands of names of their own
    names: dict[str, str] = field(default_factory=dict)  # and what was counted under those
    sent: list[bytes] = field(default_factory=list)  # events that the sink says are safe
    down: int = 0  # batches that the sink could not deliver at first
    arrived: list[bytes] = field(default_factory=list)
    afterwards: list[int] = field(default_factory=list)  # counts with the old master back
    old: dict[str, Any] = field(default_factory=dict)  # what the old master says of itself
    masters: set[int] = field(default_factory=set)  # as the connection knows them then

    @property
    def mourning(self) -> Account:
        return self.accounts[self.killed]


@pytest.fixture(scope="module")
def failover(_cluster: ACluster) -> Failover:
    _cluster.site.revive()
    _cluster.until_whole()
    _cluster.flush()
    return uvloop.run(fail_over(_cluster))


def one_of_each(cluster: ACluster) -> dict[int, Account]:
    found: dict[int, Account] = {}
    for port in cluster.masters():
        served = cluster.slots_of(port)
        every = map(an_account, range(1_000))
        found[port] = next(one for one in every if slot_of_(one) in served)
    return found


async def fail_over(cluster: ACluster) -> Failover:
    killed, accounts = cluster.master_of(slot_of(STREAM)), one_of_each(cluster)
    async with connected(cluster.url, timeout_s=1) as redis:
        store = RedisLimitStore(redis)
        async with a_crowd(store, list(accounts.values())) as crowd:
            seen = Failover(killed, accounts, crowd)
            beside = [
                asyncio.create_task(count_each_once(redis, seen)),
                asyncio.create_task(ship(cluster, seen)),
            ]
            await crowd.until_answered(50)
            await kill_and_follow(cluster, redis, seen)
            await crowd.until_answered(50)
            await asyncio.gather(*beside)
        for account in accounts.values():
            seen.counted[account.id] = await used(store, account)
        await bring_back(cluster, redis, seen)
    return seen


async def kill_and_follow(cluster: ACluster, redis: Connection, seen: Failover) -> None:
    at = time.monotonic()
    await asyncio.to_thread(cluster.site.kill, seen.killed)
    async with asyncio.timeout(FOLLOWED_WITHIN_S):
        while redis.up:
            await asyncio.sleep(0.001)
        seen.why = redis.last_error
        while not redis.up:
            assert redis.reachable
            await asyncio.sleep(0.005)
    seen.took_s = time.monotonic() - at


async def count_each_once(redis: Connection, seen: Failover) -> None:
    """Commands in flight in the moment of the death, each of which counts under its own name."""
    name, slot = f"{{{seen.mourning.id}}}:once", slot_of_(seen.mourning)
    replies = []
    while redis.up:
        replies += [
            redis.execute(encode(b"HINCRBY", name, f"n{len(replies) + more}", 1), None, slot)
            for more in range(500)
        ]
        await asyncio.sleep(0)
    seen.once = list(await asyncio.gather(*replies, return_exceptions=True))
    while not redis.up:
        await asyncio.sleep(0.005)
    flat = await redis.execute(encode(b"HGETALL", name), None, slot)
    seen.names = dict(zip(flat[::2], flat[1::2], strict=True))


async def ship(cluster: ACluster, seen: Failover) -> None:
    sink = RedisSink(cluster.url, STREAM, timeout_s=1)
    after = 0
    while after < 5:
        batch = [orjson.dumps(an_event(len(seen.sent) + number)) for number in range(3)]
        try:
            await sink.send(batch)
        except SinkDown:
            seen.down += 1
            await asyncio.sleep(0.02)
            continue
        seen.sent += batch
        after += seen.down > 0
        await asyncio.sleep(0)
    await sink.close()
    home = cluster.master_of(slot_of(STREAM))
    entries = ask(home, "XRANGE", STREAM, "-", "+")
    seen.arrived = [fields["event"].encode() for _, fields in entries]


async def bring_back(cluster: ACluster, redis: Connection, seen: Failover) -> None:
    """The old master starts again, empty and still with its slots in its own file."""
    cluster.site.start(seen.killed)
    store = RedisLimitStore(redis)
    for _ in range(20):
        seen.afterwards.append((await store.reserve(seen.mourning, "k1", claims())).used[0])
    await asyncio.to_thread(cluster.until_whole)
    with client(seen.killed) as connection:
        seen.old = connection.info("replication") | connection.info("commandstats")
    assert isinstance(redis, Cluster)
    seen.masters = {node.address.port for node in redis._masters}


def test_its_accounts_fail_until_its_replica_is_followed(
    failover: Failover, record_testsuite_property: Measured
) -> None:
    assert failover.why.startswith(f"shard 127.0.0.1:{failover.killed}")
    assert failover.crowd.unknown[failover.mourning.id] > 0
    record_testsuite_property("seconds until followed", round(failover.took_s, 2))


def test_the_accounts_of_other_shards_notice_nothing(failover: Failover) -> None:
    for port, account in failover.accounts.items():
        if port != failover.killed:
            assert failover.crowd.unknown[account.id] == 0, failover.crowd.errors
            assert failover.counted[account.id] == failover.crowd.granted[account.id]


def test_I1_what_is_counted_after_it_was_asked_for_and_what_is_lost_is_what_was_not_replicated(
    failover: Failover, record_testsuite_property: Measured
) -> None:
    name, crowd = failover.mourning.id, failover.crowd
    assert failover.counted[name] <= crowd.granted[name] + crowd.unknown[name]
    lost = crowd.granted[name] - failover.counted[name]
    record_testsuite_property("acknowledged grants that were lost", max(lost, 0))
    assert lost < crowd.granted[name]


def test_a_command_that_may_have_been_executed_is_not_sent_again(failover: Failover) -> None:
    answers = [one for one in failover.once if isinstance(one, int)]
    lost = [one for one in failover.once if isinstance(one, Exception)]
    assert answers
    assert lost
    assert set(answers) == {1}
    assert set(failover.names.values()) == {b"1"}


def test_the_sink_is_down_meanwhile_and_then_goes_on_where_the_stream_is(
    failover: Failover, record_testsuite_property: Measured
) -> None:
    assert failover.down > 0
    sent, arrived = ids(failover.sent), ids(failover.arrived)
    assert arrived[-15:] == sent[-15:]  # those that were sent after it
    record_testsuite_property("acknowledged events that were lost", len(set(sent) - set(arrived)))


def test_the_old_master_that_comes_back_is_a_replica_and_gets_nothing_from_us(
    failover: Failover,
) -> None:
    first = failover.afterwards[0]
    assert failover.afterwards == list(range(first, first + 20))
    assert failover.old["role"] == "slave"
    assert "cmdstat_evalsha" not in failover.old
    assert failover.killed not in failover.masters
