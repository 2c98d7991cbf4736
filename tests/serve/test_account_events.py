"""Account events: each change by a command gets one event in a spool, whatever stops in between."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar.errors import SpoolError, StoreUnavailable
from sidecar.files import Files
from sidecar.metering.spool import Spool
from sidecar.serve.account_events import AccountEvents
from sidecar.stores import Connection, Outbox, keys
from sidecar.stores.admin import Admin
from sidecar.stores.outbox import ACCOUNTS_AT_ONCE, RECORDS_AT_ONCE


@pytest.fixture
def admin(valkey_url: str) -> Iterator[Admin]:
    with Admin(valkey_url, "qs") as one:
        yield one


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    one = Spool(tmp_path / "spool")
    one.open()
    yield one
    await one.close()


def changed(spool: Spool) -> list[dict[str, Any]]:
    """The account events on disk."""
    lines = [line for one in spool.segments for line in one.path.read_text().splitlines()]
    read = [json.loads(line) for line in lines]
    return [event for event in read if event["type"].startswith("account.")]


class LosingOutbox(Outbox):
    """Its connection is lost before records are removed."""

    async def remove(self, *_: Any) -> None:
        raise StoreUnavailable("lost")


async def test_14_each_change_has_one_event_on_disk_and_then_no_record(
    admin: Admin, wire: Connection, spool: Spool, client: redis.Redis
) -> None:
    number = RECORDS_AT_ONCE + 3
    for one in range(number):
        admin.set_account("acme", plan=f"p{one}")
    admin.set_account("globex", plan="pro")
    events = AccountEvents(Outbox(wire, "qs", "me"), spool, "qs")
    assert await events.drain() == number + 1
    assert await events.drain() == 0
    recorded = changed(spool)
    plans = [one["data"]["to"] for one in recorded if one["subject"] == "acme"]
    assert plans == [f"p{one}" for one in range(number)]
    assert {one["source"] for one in recorded} == {"/sidecar/accounts/qs"}
    assert not client.exists(keys.outbox("qs", "acme"), keys.outbox("qs", "globex"))


async def test_all_pages_of_accounts_are_read(
    admin: Admin, wire: Connection, spool: Spool, client: redis.Redis
) -> None:
    number = 2 * ACCOUNTS_AT_ONCE + 1
    for one in range(number):
        admin.set_account(f"a{one}", plan="pro")
    client.zadd(keys.outboxes("qs"), {f"a{one}": 7 for one in range(ACCOUNTS_AT_ONCE)})
    assert await AccountEvents(Outbox(wire, "qs", "me"), spool, "qs").drain() == number


async def test_14_a_sidecar_that_dies_before_it_removes_records_leaves_copies_of_one_identity(
    admin: Admin, wire: Connection, spool: Spool, tmp_path: Path, client: redis.Redis
) -> None:
    admin.set_account("acme", plan="pro")
    with pytest.raises(StoreUnavailable):
        await AccountEvents(LosingOutbox(wire, "qs", "dies"), spool, "qs").drain()
    assert len(changed(spool)) == 1
    client.delete(keys.outbox_lease("qs"))
    other = Spool(tmp_path / "other")
    other.open()
    await AccountEvents(Outbox(wire, "qs", "lives"), other, "qs").drain()
    [first], [second] = changed(spool), changed(other)
    await other.close()
    chain = {"spool", "seq", "prev"}
    assert {k: v for k, v in first.items() if k not in chain} == {
        k: v for k, v in second.items() if k not in chain
    }


async def test_14_a_record_stays_until_its_event_is_on_disk(
    admin: Admin, wire: Connection, tmp_path: Path
) -> None:
    failing = True

    def sync(fd: int) -> None:
        if failing:
            raise OSError(5, "Input/output error")

    spool = Spool(tmp_path / "spool", files=Files(sync=sync), retry_s=0.01)
    failing = False
    spool.open()
    failing = True
    admin.set_account("acme", plan="pro")
    outbox = Outbox(wire, "qs", "me")
    with pytest.raises(SpoolError):
        await AccountEvents(outbox, spool, "qs").drain()
    assert len(await outbox.read("acme")) == 1
    failing = False
    await AccountEvents(outbox, spool, "qs").drain()
    assert await outbox.read("acme") == []
    assert len({one["id"] for one in changed(spool)}) == 1
    await spool.close()


async def test_14_a_spool_that_drops_an_event_leaves_its_record(
    admin: Admin, wire: Connection, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", max_waiting_bytes=200)
    spool.open()
    admin.set_account("acme", plan="pro")
    outbox = Outbox(wire, "qs", "me")
    with pytest.raises(SpoolError, match="does not accept events"):
        await AccountEvents(outbox, spool, "qs").drain()
    assert len(await outbox.read("acme")) == 1
    await spool.close()


async def test_a_record_that_cannot_be_read_is_logged_and_stops_no_other(
    admin: Admin, wire: Connection, spool: Spool, client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    admin.set_account("acme", plan="pro")
    client.lpush(keys.outbox("qs", "acme"), "a record of another version")
    assert await AccountEvents(Outbox(wire, "qs", "me"), spool, "qs").drain() == 2
    assert len(changed(spool)) == 1
    out = capsys.readouterr()
    assert "account_record_unreadable" in out.out + out.err


async def test_a_sidecar_without_the_lease_makes_no_events(
    admin: Admin, wire: Connection, spool: Spool
) -> None:
    admin.set_account("acme", plan="pro")
    await Outbox(wire, "qs", "other").take()
    assert await AccountEvents(Outbox(wire, "qs", "me"), spool, "qs").drain() == 0
    assert changed(spool) == []
