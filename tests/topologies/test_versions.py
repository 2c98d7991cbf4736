"""Each server version on this machine works in each topology."""

import asyncio
import os

import orjson
import pytest

from sidecar.core.identity import key_digest
from sidecar.metering.sinks.redis import RedisSink
from sidecar.stores import RedisDirectory, RedisLimitStore, keys
from sidecar.stores.admin import Admin
from tests.support.events import an_event
from tests.support.stores.binaries import Binary, binaries
from tests.support.stores.clusters import a_cluster
from tests.support.stores.requests import (
    a_crowd,
    an_account,
    claims,
    connected,
    slot_of_account,
    until,
)
from tests.support.stores.sentinels import guarded
from tests.support.stores.site import a_site, cluster_ports

OTHERS = binaries()[1:]  # all other tests run on the first
each = pytest.mark.parametrize("binary", OTHERS, ids=[binary.name for binary in OTHERS])
pytestmark = pytest.mark.skipif(
    not OTHERS, reason="only the embedded Valkey is installed; Debian's redis-tools has another"
)


async def everything(url: str) -> None:
    """Use store, admin, directory and sink."""
    await asyncio.to_thread(administer, url)
    async with connected(url) as redis:
        assert redis.up, redis.last_error
        store = RedisLimitStore(redis)
        for number in range(5):
            for count in (1, 2, 3):
                answer = await store.reserve(an_account(number), "k1", claims())
                assert (answer.granted, answer.used) == (True, (count,))
            assert (await store.peek(an_account(number), "k1", claims())).used == (3,)
        directory = RedisDirectory(redis, "qs", lambda _: None)
        assert await directory.find(key_digest(b"unknown")) is None
        assert await directory._follow(await directory._follow(None))
    sink = RedisSink(url, keys.events("qs"))
    await sink.send([orjson.dumps(an_event(number)) for number in range(3)])
    await sink.close()


def administer(url: str) -> None:
    with Admin(url, "qs") as admin:
        admin.set_account("acme", plan="pro")
        key_id, _ = admin.create_key("acme", random_bytes=os.urandom)
        assert [row.id for row in admin.list_keys()] == [key_id]
        admin.revoke_key("acme", key_id)


@each
async def test_as_a_single_server(binary: Binary) -> None:
    with a_site(binary) as site:
        (port,) = cluster_ports(1)
        site.start(port)
        await everything(f"redis://127.0.0.1:{port}/0")


@each
async def test_behind_a_sentinel_with_a_failover(binary: Binary) -> None:
    with guarded(binary, sentinels=1, quick=binary.version >= (7,)) as servers:
        await everything(servers.url)
        async with connected(servers.url) as redis:
            old = servers.master()
            async with a_crowd(RedisLimitStore(redis), [an_account(9)]) as crowd:
                await asyncio.to_thread(servers.fail_over)
                await until(lambda: servers.master() != old)
                await until(lambda: redis.up and f":{old}" not in str(redis.at))  # type: ignore[attr-defined]
                await crowd.until_answered(20)


@each
async def test_as_a_cluster_whose_slots_migrate_under_load(binary: Binary) -> None:
    with a_cluster(binary, masters=2, replicas=False) as cluster:
        await everything(cluster.url)
        async with connected(cluster.url) as redis:
            account = an_account(7)
            slot = slot_of_account(account)
            (target,) = set(cluster.masters()) - {cluster.master_of(slot)}
            async with a_crowd(RedisLimitStore(redis), [account], units=300) as crowd:
                await crowd.until_answered(20)
                await asyncio.to_thread(cluster.move_slot, slot, target)
                await until(lambda: crowd.refused[account.id] > 0)
        assert not crowd.errors
        assert crowd.granted[account.id] == 300
