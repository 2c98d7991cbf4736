"""Interrupted changes by `sidecar keys` and `sidecar accounts` on a cluster are safe."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sidecar.core.events.changes import event_of
from sidecar.core.identity import key_digest
from sidecar.core.model import Account, Key, Pack
from sidecar.errors import StoreUnavailable
from sidecar.stores import Outbox, RedisDirectory, keys
from sidecar.stores.admin import Admin
from sidecar.stores.connection.slots import slot_of
from tests.support.stores.clusters import ACluster
from tests.support.stores.requests import connected
from tests.support.stores.site import ask

STREAM = keys.changes("qs")


@contextmanager
def notifying_fails(cluster: ACluster) -> Iterator[None]:
    """The stream of changes has another type, so the step that writes to it fails."""
    master = cluster.master_of(slot_of(STREAM))
    ask(master, "DEL", STREAM)
    ask(master, "SET", STREAM, "no stream")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        yield
    ask(master, "DEL", STREAM)


def find_key(cluster: ACluster, secret: str) -> Key | None:
    async def find() -> Key | None:
        async with connected(cluster.url) as redis:
            directory = RedisDirectory(redis, "qs", lambda _: None)
            return await directory.find(key_digest(secret.encode()))

    return asyncio.run(find())


def create(cluster: ACluster, key_id: str) -> str:
    with Admin(cluster.url, "qs") as admin:
        admin.set_account("acme", plan="pro")
        return admin.create_key("acme", key_id=key_id, random_bytes=os.urandom)[1]


def test_after_an_interrupted_revocation_the_key_is_refused_and_a_retry_completes_it(
    cluster: ACluster,
) -> None:
    secret = create(cluster, "k1")
    assert find_key(cluster, secret) is not None
    with notifying_fails(cluster), Admin(cluster.url, "qs") as admin:
        admin.revoke_key("acme", "k1")
    assert find_key(cluster, secret) is None
    with Admin(cluster.url, "qs") as admin:
        assert list(admin.list_keys()) == []
        admin.revoke_key("acme", "k1")
    assert ask(cluster.master_of(slot_of(STREAM)), "XLEN", STREAM) == 1


def test_after_an_interrupted_creation_the_key_can_be_revoked(cluster: ACluster) -> None:
    create(cluster, "k1")
    with notifying_fails(cluster), Admin(cluster.url, "qs") as admin:
        admin.create_key("acme", key_id="k2", random_bytes=os.urandom)
    with Admin(cluster.url, "qs") as admin:
        assert [row.id for row in admin.list_keys()] == ["k1", "k2"]
        admin.revoke_key("acme", "k2")
        assert [row.id for row in admin.list_keys()] == ["k1"]


def test_a_key_id_without_a_secret_can_be_created(cluster: ACluster) -> None:
    by_id = keys.account_keys("qs", "acme")
    ask(cluster.master_of(slot_of(by_id)), "HSET", by_id, "k1", "0" * 64)
    secret = create(cluster, "k1")
    assert find_key(cluster, secret) is not None


def test_after_an_interrupted_change_the_account_is_changed(cluster: ACluster) -> None:
    secret = create(cluster, "k1")
    with notifying_fails(cluster), Admin(cluster.url, "qs") as admin:
        admin.set_account("acme", plan="free")
    key = find_key(cluster, secret)
    assert key is not None and key.account.plan == "free"


def records(cluster: ACluster, account: str) -> list[str]:
    """The types of the events that wait in the outbox, by way of the sidecars' connection."""

    async def read() -> list[str]:
        async with connected(cluster.url) as redis:
            outbox = Outbox(redis, "qs", "me")
            announced = await outbox.take()
            assert announced is not None
            assert account in [one.account for one in announced]
            found = [event_of(one.decode(), account, "/s") for one in await outbox.read(account)]
            return [one["type"] for one in found]

    return asyncio.run(read())


def test_14_a_change_that_is_interrupted_on_a_cluster_has_its_event(cluster: ACluster) -> None:
    create(cluster, "k1")
    before = records(cluster, "acme")
    with notifying_fails(cluster), Admin(cluster.url, "qs") as admin:
        admin.set_account("acme", plan="free")
    with notifying_fails(cluster), Admin(cluster.url, "qs") as admin:
        admin.grant(Account("acme", "free"), Pack("boost", "monthly", "requests", 9, "month"), "g1")
    assert records(cluster, "acme")[len(before) :] == ["account.plan.v1", "account.grant.v1"]
