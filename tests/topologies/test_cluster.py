"""The store on a cluster of real servers: slots that migrate under load, and failures."""

import asyncio
from collections.abc import AsyncIterator
from itertools import islice

import pytest

from sidecar.core.model import Account
from sidecar.errors import StoreUnavailable
from sidecar.stores import Connection, RedisLimitStore, keys
from sidecar.stores.connection.cluster import MAX_HOPS, Cluster
from sidecar.stores.connection.wire import encode
from sidecar.stores.eviction import eviction_policy
from tests.support.stores.clusters import ACluster
from tests.support.stores.requests import (
    a_crowd,
    an_account,
    claims,
    connected,
    slot_of_account,
    until,
    used,
)
from tests.support.stores.site import ask, cluster_ports

MANY = [an_account(number) for number in range(60)]


@pytest.fixture
async def redis(cluster: ACluster) -> AsyncIterator[Connection]:
    async with connected(cluster.url) as connection:
        assert connection.up, connection.last_error
        yield connection


@pytest.fixture
async def store(redis: Connection) -> RedisLimitStore:
    return RedisLimitStore(redis)


def masters_with(cluster: ACluster, account: Account) -> list[int]:
    """The masters that have the account's state."""
    name = keys.state("qs", account.id)
    return [port for port in cluster.masters() if name in ask(port, "KEYS", "*")]


def in_slots_of(cluster: ACluster, port: int, count: int) -> list[Account]:
    """Accounts in the slots of this master."""
    served = cluster.slots_of(port)
    every = (an_account(number) for number in range(10_000))
    return list(islice((one for one in every if slot_of_account(one) in served), count))


async def test_each_account_is_counted_by_the_master_of_its_slot(
    cluster: ACluster, store: RedisLimitStore
) -> None:
    answers = await asyncio.gather(*(store.reserve(one, "k1", claims()) for one in MANY))
    assert all(answer.granted for answer in answers)
    for port in cluster.masters():
        served = cluster.slots_of(port)
        expected = {keys.state("qs", one.id) for one in MANY if slot_of_account(one) in served}
        assert expected and set(ask(port, "KEYS", "*")) == expected


async def test_20_eviction_unnoticed_on_one_master_of_a_cluster(
    cluster: ACluster, redis: Connection
) -> None:
    assert await eviction_policy(redis) == "noeviction"
    for port in cluster.masters():
        ask(port, "CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
        assert await eviction_policy(redis) == "allkeys-lru"
        ask(port, "CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")
    served = [cluster.slots_of(port) for port in cluster.masters()]
    assert [len(slots & set(redis.shards)) for slots in served] == [1] * len(served)


async def test_one_available_node_is_enough_to_find_the_others(cluster: ACluster) -> None:
    nobody = cluster_ports(1)[0]
    a_replica = next(port for port in cluster.ports if port not in cluster.masters())
    url = f"redis+cluster://127.0.0.1:{nobody},127.0.0.1:{a_replica}"
    async with connected(url) as redis:
        assert redis.up, redis.last_error
        for account in MANY[:9]:
            assert (await RedisLimitStore(redis).reserve(account, "k1", claims())).granted


async def test_I1_slots_that_migrate_under_load_refuse_nothing_and_count_nothing_twice(
    cluster: ACluster, store: RedisLimitStore
) -> None:
    source, target, _ = cluster.masters()
    accounts = in_slots_of(cluster, source, 4)
    async with a_crowd(store, accounts, units=400) as crowd:
        await crowd.until_answered(20)
        for account in accounts[:3]:
            await asyncio.to_thread(cluster.move_slot, slot_of_account(account), target)
            await crowd.until_answered(20)
        await until(lambda: all(crowd.refused[account.id] for account in accounts))
    assert not crowd.errors
    assert dict(crowd.granted) == {account.id: 400 for account in accounts}
    for account in accounts:
        assert await used(store, account) == 400
    assert [masters_with(cluster, one) for one in accounts] == [[target]] * 3 + [[source]]


async def test_while_a_slot_migrates_a_redirected_request_counts_on_the_target(
    cluster: ACluster, store: RedisLimitStore
) -> None:
    source, target, _ = cluster.masters()
    account = in_slots_of(cluster, source, 1)[0]
    slot = slot_of_account(account)
    with cluster.moving(slot, target):
        ask(target, "SCRIPT", "FLUSH")  # and the target does not know the script
        for count in (1, 2, 3):
            assert (await store.reserve(account, "k1", claims())).used == (count,)
        assert ask(source, "CLUSTER", "COUNTKEYSINSLOT", slot) == 0
        assert ask(target, "CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    assert (await store.reserve(account, "k1", claims())).used == (4,)


async def test_while_a_slot_migrates_a_key_still_on_the_source_counts_there_and_migrates(
    cluster: ACluster, store: RedisLimitStore
) -> None:
    source, target, _ = cluster.masters()
    account = in_slots_of(cluster, source, 1)[0]
    slot = slot_of_account(account)
    assert (await store.reserve(account, "k1", claims())).used == (1,)
    with cluster.moving(slot, target):
        assert (await store.reserve(account, "k1", claims())).used == (2,)
        cluster.move_keys(slot, source, target)
        assert (await store.reserve(account, "k1", claims())).used == (3,)
    assert (await store.reserve(account, "k1", claims())).used == (4,)
    assert masters_with(cluster, account) == [target]


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_late_reply_to_a_redirected_command_is_passed_to_late(
    cluster: ACluster, cancelled: bool
) -> None:
    source, target, _ = cluster.masters()
    account = in_slots_of(cluster, source, 1)[0]
    slot, name = slot_of_account(account), keys.state("qs", account.id)
    late_replies: list[object] = []
    async with connected(cluster.url, timeout_s=0.3) as redis:
        cluster.move_slot(slot, target)
        cluster.site.pause(target)
        try:
            count = encode(b"HINCRBY", name, b"n", 1)
            reply = redis.execute(count, lambda late, _: late_replies.append(late), slot)
            assert isinstance(redis, Cluster)
            await until(lambda: reply.hops == 1 or reply.done())  # type: ignore[attr-defined]
            if cancelled:
                reply.cancel()
            else:
                with pytest.raises(StoreUnavailable, match="did not answer in time"):
                    await reply
        finally:
            cluster.site.go_on(target)
        await until(lambda: bool(late_replies))
    assert late_replies == [1]
    assert ask(target, "HGET", name, "n") == "1"


async def test_nodes_that_redirect_a_command_to_each_other_fail_it(
    cluster: ACluster, redis: Connection
) -> None:
    one, other, _ = cluster.masters()
    account = in_slots_of(cluster, one, 1)[0]
    slot = slot_of_account(account)
    ask(one, "CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(other))  # not on the other
    try:
        with pytest.raises(StoreUnavailable, match=f"slot {slot} was redirected {MAX_HOPS} times"):
            await RedisLimitStore(redis).reserve(account, "k1", claims())
    finally:
        for port in (other, one):
            ask(port, "CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(one))
    await until(lambda: redis.up)
    assert (await RedisLimitStore(redis).reserve(account, "k1", claims())).granted


async def test_a_slot_without_a_node_fails_its_accounts_and_no_others(
    cluster: ACluster, redis: Connection, store: RedisLimitStore
) -> None:
    account, other = in_slots_of(cluster, cluster.masters()[0], 2)
    slot = slot_of_account(account)
    home = cluster.master_of(slot)
    for port in cluster.ports:
        ask(port, "CLUSTER", "DELSLOTS", slot)
    with pytest.raises(StoreUnavailable, match="CLUSTERDOWN"):
        await store.reserve(account, "k1", claims())
    await until(lambda: not redis.up)
    assert redis.last_error == f"no node serves slot {slot}"
    assert redis.reachable
    with pytest.raises(StoreUnavailable, match=f"no node serves slot {slot}|CLUSTERDOWN"):
        await store.reserve(account, "k1", claims())
    assert (await store.reserve(other, "k1", claims())).granted
    ask(home, "CLUSTER", "ADDSLOTS", slot)
    await until(lambda: redis.up)
    assert (await store.reserve(account, "k1", claims())).granted


async def test_a_server_without_cluster_mode_is_reported(valkey_url: str) -> None:
    port = valkey_url.rpartition(":")[2].removesuffix("/0")
    async with connected(f"redis+cluster://127.0.0.1:{port}") as redis:
        assert not redis.up and not redis.reachable
        assert f"127.0.0.1:{port}: ERR" in redis.last_error
        assert "cluster support disabled" in redis.last_error


async def test_an_unavailable_cluster_is_reported_and_fails_at_once() -> None:
    port = cluster_ports(1)[0]
    async with connected(f"redis+cluster://127.0.0.1:{port}") as redis:
        assert not redis.up and not redis.reachable
        assert redis.last_error == f"127.0.0.1:{port} refuses connections"
        refused = redis.execute(encode(b"TIME"))
        assert refused.done()
        with pytest.raises(StoreUnavailable, match=str(port)):
            await refused
