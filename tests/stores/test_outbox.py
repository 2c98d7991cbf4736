"""Outboxes: a change and its record are one transaction, and one sidecar reads the records."""

import json
import os
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
import redis

from sidecar.core.events.changes import event_of
from sidecar.core.model import Account, Pack, PlanChange
from sidecar.errors import SidecarError, StoreUnavailable
from sidecar.stores import Connection, Outbox, keys
from sidecar.stores.admin import Admin
from sidecar.stores.changes import MOST_RECORDS
from sidecar.stores.outbox import ACCOUNTS_AT_ONCE, GRACE_US, LEASE_MS

BOOST = Pack("boost", "monthly", "requests", 9, "month", "5 USD")


@pytest.fixture
def admin(valkey_url: str) -> Iterator[Admin]:
    with Admin(valkey_url, "qs") as one:
        yield one


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as connection:
        yield connection


async def events(wire: Connection, account: str = "acme") -> list[dict[str, Any]]:
    records = await Outbox(wire, "qs", "reader").read(account)
    return [event_of(record.decode(), account, "/s") for record in records]


async def test_14_each_change_by_a_command_has_an_event(admin: Admin, wire: Connection) -> None:
    admin.set_account("acme", plan="pro", timezone="Europe/Paris", anchor=date(2026, 1, 15))
    admin.create_key("acme", key_id="k1", random_bytes=os.urandom, expires=timedelta(days=1))
    admin.rotate_key("acme", "k1", new_id="k2", random_bytes=os.urandom, grace=timedelta(hours=1))
    admin.revoke_key("acme", "k2")
    admin.set_account("acme", status="suspended")
    admin.set_account("acme", then=PlanChange("free", 1_796_083_200_000_000))
    admin.set_account("acme", plan="free")
    assert admin.grant(Account("acme", "free"), BOOST, "order-1", "sha256:ab").new
    admin.delete_account("acme")
    recorded = await events(wire)
    kinds = [(one["type"], one["data"].get("action")) for one in recorded]
    assert kinds == [
        ("account.plan.v1", None), ("account.set.v1", None), ("account.key.v1", "created"),
        ("account.key.v1", "rotated"), ("account.key.v1", "revoked"), ("account.status.v1", None),
        ("account.plan.v1", None), ("account.plan.v1", None), ("account.grant.v1", None),
        ("account.deleted.v1", None),
    ]  # fmt: skip
    assert len({one["id"] for one in recorded}) == len(recorded)
    rotated, grant, deleted = recorded[3]["data"], recorded[8]["data"], recorded[9]["data"]
    assert (rotated["key"], rotated["replaces"]) == ("k2", "k1")
    assert rotated["replaced_ends_at"] > recorded[3]["time"]
    assert recorded[2]["data"]["expires_at"] > recorded[2]["time"]
    assert grant["expires_at"] > recorded[8]["time"]
    assert (grant["units"], grant["price"], grant["plan_version"]) == (9, "5 USD", "sha256:ab")
    assert deleted == {"plan": "free", "keys": ["k1"]}
    assert "qs_" not in json.dumps(recorded)  # no secret


async def test_14_what_changes_nothing_has_no_event(admin: Admin, wire: Connection) -> None:
    account = Account("acme", "pro")
    admin.set_account("acme", plan="pro")
    admin.grant(account, BOOST, "order-1")
    before = await events(wire)
    admin.set_account("acme", plan="pro", status="active")
    assert not admin.grant(account, BOOST, "order-1").new
    with pytest.raises(SidecarError):
        admin.revoke_key("acme", "k9")
    assert await events(wire) == before


async def test_14_a_grant_that_is_made_again_has_the_same_identity(
    admin: Admin, wire: Connection, client: redis.Redis
) -> None:
    account = Account("acme", "pro")
    admin.grant(account, BOOST, "order-1")
    client.delete(keys.state("qs", "acme"))  # Redis lost it
    admin.grant(account, BOOST, "order-1")
    assert [one["id"] for one in await events(wire)] == ["grant/acme/order-1"] * 2


async def test_a_change_that_redis_refuses_has_no_event(
    admin: Admin, wire: Connection, client: redis.Redis
) -> None:
    client.set(keys.state("qs", "acme"), "not a hash")
    with pytest.raises(redis.exceptions.ResponseError):
        admin.grant(Account("acme", "pro"), BOOST, "order-1")
    assert await events(wire) == []


async def test_one_sidecar_at_a_time_has_the_lease(
    admin: Admin, wire: Connection, client: redis.Redis
) -> None:
    admin.set_account("acme", plan="pro")
    first, second = Outbox(wire, "qs", "first"), Outbox(wire, "qs", "second")
    announced = await first.take()
    assert announced is not None
    assert [one.account for one in announced] == ["acme"]
    assert await second.take() is None
    assert await first.take() == announced
    lease = keys.outbox_lease("qs")
    assert 0 < client.pttl(lease) <= LEASE_MS
    client.delete(lease)  # as when it ends
    assert await second.take() == announced
    assert await first.take() is None


async def test_accounts_are_listed_in_pages(admin: Admin, wire: Connection) -> None:
    for number in range(ACCOUNTS_AT_ONCE + 5):
        admin.set_account(f"a{number}", plan="pro")
    outbox = Outbox(wire, "qs", "me")
    first = await outbox.take()
    assert first is not None
    second = await outbox.take(first[-1].at_us + 1)
    assert second is not None
    listed = [one.account for one in (*first, *second)]
    assert listed == [f"a{number}" for number in range(ACCOUNTS_AT_ONCE + 5)]


async def test_a_record_is_removed_once(admin: Admin, wire: Connection) -> None:
    admin.set_account("acme", plan="pro")
    admin.set_account("acme", plan="free")
    outbox = Outbox(wire, "qs", "me")
    first, second = await outbox.read("acme")
    for _ in range(2):
        await outbox.remove("acme", [first])
        assert await outbox.read("acme") == [second]


async def test_an_account_stays_listed_while_a_change_may_follow(
    admin: Admin, wire: Connection, client: redis.Redis
) -> None:
    admin.set_account("acme", plan="pro")
    outbox = Outbox(wire, "qs", "me")
    await outbox.remove("acme", await outbox.read("acme"))
    await outbox.retire("acme")
    announced = await outbox.take()
    assert announced is not None
    [(account, at_us)] = announced
    assert account == "acme"
    client.zadd(keys.outboxes("qs"), {"acme": at_us - 60_000_000})  # of a slow command
    await outbox.retire("acme")
    assert await outbox.take() != []
    client.zadd(keys.outboxes("qs"), {"acme": at_us - GRACE_US - 1})
    await outbox.retire("acme")
    assert await outbox.take() == []


def test_I9_an_outbox_that_no_sidecar_reads_is_bounded(admin: Admin, client: redis.Redis) -> None:
    client.rpush(keys.outbox("qs", "acme"), *["1 0 []"] * MOST_RECORDS)
    refused = pytest.raises(SidecarError, match="10,000 changes without an event; start a sidecar")
    with refused:
        admin.set_account("acme", plan="pro")
    with refused:
        admin.grant(Account("acme", "pro"), BOOST, "order-1")
    assert not client.exists(keys.account("qs", "acme"), keys.state("qs", "acme"))
    admin.set_account("globex", plan="pro")


def test_I9_all_keys_of_outboxes_have_a_time_to_live(admin: Admin, client: redis.Redis) -> None:
    admin.set_account("acme", plan="pro")
    admin.grant(Account("globex", "pro"), BOOST, "order-1")
    names = [keys.outboxes("qs"), keys.outbox("qs", "acme"), keys.outbox("qs", "globex")]
    assert all(client.ttl(name) > 0 for name in names)


async def test_a_list_of_another_type_is_unavailable(wire: Connection, client: redis.Redis) -> None:
    client.set(keys.outbox("qs", "acme"), "not a list")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await Outbox(wire, "qs", "me").read("acme")
