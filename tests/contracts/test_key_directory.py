"""The contract of `ports.KeyDirectory`, tested with each directory.

A directory that can also `forget` (every one that caches) drops at once what it remembers.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import pytest

from sidecar.core.identity import key_digest
from sidecar.core.model import Account, Key
from sidecar.errors import StoreUnavailable
from sidecar.ports import KeyDirectory
from sidecar.stores import Connection, RedisDirectory, Wire, connect
from sidecar.stores.admin import Admin
from tests.support.servers import free_port

OF_FILE = Account("of-file", "gold", "Asia/Tokyo")


class Directory(KeyDirectory, Protocol):
    def forget(self) -> None: ...


@dataclass
class Case:
    """A directory, and changes as the product's commands make them."""

    directory: Directory
    unavailable: Directory  # the same kind, with an unavailable store
    add: Callable[[str, str], bytes]  # (account, key id) → digest of the new secret
    set_account: Callable[..., None]
    revoke: Callable[[str, str], None]


def a_redis_directory(wire: Connection) -> RedisDirectory:
    accounts = {OF_FILE.id: OF_FILE}
    return RedisDirectory(wire, "qs", accounts.get)


@asynccontextmanager
async def in_redis(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    async with at(request.getfixturevalue("valkey_url")) as case:
        yield case


@asynccontextmanager
async def behind_sentinels(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    async with at(request.getfixturevalue("sentinels").url) as case:
        yield case


@asynccontextmanager
async def in_a_cluster(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    async with at(request.getfixturevalue("cluster").url) as case:
        yield case


@asynccontextmanager
async def at(url: str) -> AsyncIterator[Case]:
    wire = connect(url, timeout_s=5.0)
    await wire.start()
    directory = a_redis_directory(wire)
    gone = a_redis_directory(Wire(f"redis://127.0.0.1:{free_port()}/0"))
    with Admin(url, "qs") as admin:

        def add(account: str, key_id: str) -> bytes:
            _, secret = admin.create_key(account, random_bytes=os.urandom, key_id=key_id)
            return key_digest(secret.encode())

        try:
            yield Case(directory, gone, add, admin.set_account, admin.revoke_key)
        finally:
            await wire.stop()


Adapter = Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Case]]
ADAPTERS: dict[str, Adapter] = {
    "redis": in_redis, "sentinel": behind_sentinels, "cluster": in_a_cluster
}  # fmt: skip


@pytest.fixture(params=ADAPTERS)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    async with ADAPTERS[request.param](request) as case:
        case.set_account("acme", plan="pro", timezone="Europe/Paris", anchor=date(2026, 1, 15))
        yield case


async def test_a_key_is_found_with_its_account(case: Case) -> None:
    digest = case.add("acme", "k1")
    expected = Key("k1", Account("acme", "pro", "Europe/Paris", date(2026, 1, 15)))
    assert await case.directory.find(digest) == expected


async def test_an_invalid_record_of_teams_is_an_error(
    case: Case,
) -> None:
    case.set_account("acme", teams="search=400%")
    with pytest.raises(StoreUnavailable, match="account acme: teams"):
        await case.directory.find(case.add("acme", "k1"))


async def test_a_key_is_cached_after_it_was_found(case: Case) -> None:
    digest = case.add("acme", "k1")
    assert case.directory.cached(digest) is None
    found = await case.directory.find(digest)
    assert found is not None
    assert case.directory.cached(digest) == found


async def test_find_returns_none_for_an_unknown_key(case: Case) -> None:
    case.add("acme", "k1")
    for _ in range(2):  # the second time, from the cache
        assert await case.directory.find(key_digest(b"guessed")) is None
        assert case.directory.cached(key_digest(b"guessed")) is None


async def test_a_key_without_an_account_is_unknown(case: Case) -> None:
    assert await case.directory.find(case.add("nobody", "k1")) is None


async def test_an_account_of_the_plan_file_precedes_its_record(case: Case) -> None:
    case.set_account(OF_FILE.id, plan="free")
    found = await case.directory.find(case.add(OF_FILE.id, "k1"))
    assert found == Key("k1", OF_FILE)


async def test_a_suspended_account_is_found_as_suspended(case: Case) -> None:
    digest = case.add("acme", "k1")
    case.set_account("acme", status="suspended")
    found = await case.directory.find(digest)
    assert found is not None and found.account.suspended


async def test_keys_are_distinguished(case: Case) -> None:
    case.set_account("globex", plan="free")
    digests = {
        (account, key_id): case.add(account, key_id)
        for account in ("acme", "globex")
        for key_id in ("k1", "k2")
    }
    found = await asyncio.gather(*map(case.directory.find, digests.values()))
    assert [(key.account.id, key.id) for key in found if key] == list(digests)


async def test_concurrent_requests_for_one_key_all_get_it(case: Case) -> None:
    digest = case.add("acme", "k1")
    found = await asyncio.gather(*(case.directory.find(digest) for _ in range(50)))
    assert {key.id for key in found if key} == {"k1"} and None not in found


async def test_concurrent_requests_for_many_keys_all_get_theirs(case: Case) -> None:
    digests = [case.add("acme", f"k{number}") for number in range(50)]
    found = await asyncio.gather(*map(case.directory.find, digests))
    assert [key.id for key in found if key] == [f"k{number}" for number in range(50)]


async def test_forget_clears_the_cache_and_keys_are_read_again(case: Case) -> None:
    digest, unknown = case.add("acme", "k1"), key_digest(b"unknown")
    await case.directory.find(digest)
    await case.directory.find(unknown)
    case.set_account("acme", plan="free")
    case.directory.forget()
    assert case.directory.cached(digest) is None
    assert await case.directory.find(unknown) is None
    found = await case.directory.find(digest)
    assert found is not None and found.account.plan == "free"


async def test_a_revoked_key_is_unknown_after_forget(case: Case) -> None:
    digest = case.add("acme", "k1")
    assert await case.directory.find(digest) is not None
    case.revoke("acme", "k1")
    case.directory.forget()
    assert await case.directory.find(digest) is None


async def test_an_unavailable_store_is_an_error_and_not_an_unknown_key(
    case: Case,
) -> None:
    digest = case.add("acme", "k1")
    assert case.unavailable.cached(digest) is None
    with pytest.raises(StoreUnavailable):
        await case.unavailable.find(digest)
