"""How long a cached API key is trusted: until it expires, is revoked, or nothing confirms it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from sidecar.core.identity import key_digest
from sidecar.core.model import Key
from sidecar.errors import StoreUnavailable
from sidecar.stores import RedisDirectory
from sidecar.stores.admin import Admin
from sidecar.stores.connection.wire import Wire
from sidecar.stores.directory import FRESH_SECONDS, TRUST_SECONDS
from tests.support.events import until
from tests.support.stores.wire_ends import Cable, a_cable, a_wire


class DirectoryStage:
    """A directory behind a cable, with a clock that the test moves."""

    def __init__(self, wire: Any, cable: Cable, admin: Admin) -> None:
        self.wire, self.cable, self.admin = wire, cable, admin
        self.now = 0.0
        self.changed: list[str] = []
        self.directory = RedisDirectory(
            wire, "qs", lambda _: None, on_change=self.changed.append, now=lambda: self.now
        )

    def create(self, key_id: str = "k1", expires: timedelta | None = None) -> bytes:
        """Create an API key; its digest."""
        _, secret = self.admin.create_key(
            "acme", key_id=key_id, random_bytes=os.urandom, expires=expires
        )
        return key_digest(secret.encode())

    async def find(self, digest: bytes) -> str | None:
        """The id of the API key; None if it is unknown."""
        found = await self.directory.find(digest)
        return found.id if isinstance(found, Key) else None

    async def lose_redis(self) -> None:
        self.cable.cut()
        await until(lambda: not self.wire.up)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the changes during the block."""
        task = asyncio.create_task(self.directory.run())
        await self.follow()
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def follow(self) -> None:
        """Wait until the directory has followed a change that is made now."""
        seen = len(self.changed)
        while len(self.changed) == seen:
            self.admin.set_account("other", plan="pro")
            await asyncio.sleep(0.01)


@pytest.fixture
async def stage(valkey_url: str) -> AsyncIterator[DirectoryStage]:
    async with (
        a_cable(urlsplit(valkey_url).port or 0) as (cable, port),
        a_wire(f"redis://127.0.0.1:{port}/0") as wire,
    ):
        with Admin(valkey_url, "qs") as admin:
            admin.set_account("acme", plan="pro")
            yield DirectoryStage(wire, cable, admin)


async def test_a_cached_key_works_until_it_expires(stage: DirectoryStage) -> None:
    digest = stage.create(expires=timedelta(seconds=30))
    assert await stage.find(digest) == "k1"
    stage.now = 29
    assert stage.directory.cached(digest)
    stage.now = 30
    assert stage.directory.cached(digest) is None


async def test_an_outage_extends_no_key_beyond_its_expiry(stage: DirectoryStage) -> None:
    brief, lasting = stage.create("k1", timedelta(seconds=90)), stage.create("k2")
    assert [await stage.find(digest) for digest in (brief, lasting)] == ["k1", "k2"]
    await stage.lose_redis()
    stage.now = 89
    assert [await stage.find(digest) for digest in (brief, lasting)] == ["k1", "k2"]
    stage.now = 90
    with pytest.raises(StoreUnavailable):
        await stage.find(brief)
    assert await stage.find(lasting) == "k2"


async def test_I9_in_an_outage_cached_keys_are_trusted_for_a_bounded_time(
    stage: DirectoryStage,
) -> None:
    digest = stage.create()
    async with stage.following():
        assert await stage.find(digest) == "k1"
        stage.now = 1_000  # the changes are followed until then
        await stage.follow()
        await stage.lose_redis()
    stage.now += TRUST_SECONDS
    assert await stage.find(digest) == "k1"
    stage.now += 1
    with pytest.raises(StoreUnavailable):
        await stage.find(digest)


async def test_a_key_is_read_again_when_it_is_not_fresh(stage: DirectoryStage) -> None:
    digest = stage.create()
    assert await stage.find(digest) == "k1"
    stage.now = FRESH_SECONDS
    assert stage.directory.cached(digest)
    stage.now += 1
    assert stage.directory.cached(digest) is None
    stage.admin.revoke_key("acme", "k1")
    assert await stage.find(digest) is None


async def test_a_revoked_key_is_forgotten_without_delay(stage: DirectoryStage) -> None:
    digest = stage.create()
    async with stage.following():
        assert await stage.find(digest) == "k1"
        stage.admin.revoke_key("acme", "k1")
        await until(lambda: stage.directory.cached(digest) is None)
        assert await stage.find(digest) is None


async def test_the_key_of_an_account_that_comes_later_is_known_without_delay(
    stage: DirectoryStage,
) -> None:
    _, secret = stage.admin.create_key("late", random_bytes=os.urandom)
    digest = key_digest(secret.encode())
    async with stage.following():
        assert await stage.find(digest) is None  # which is cached, as the clock does not move
        stage.admin.set_account("late", plan="pro")
        async with asyncio.timeout(20):
            while await stage.find(digest) is None:
                await asyncio.sleep(0.01)


async def test_a_key_that_was_revoked_during_an_outage_is_read_again(
    stage: DirectoryStage, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = stage.create()
    async with stage.following():
        assert await stage.find(digest) == "k1"
        await stage.lose_redis()
        await until(lambda: "key_directory_unreachable" in capsys.readouterr().out)
        stage.admin.revoke_key("acme", "k1")
        stage.cable.mend()
        await until(lambda: stage.directory.cached(digest) is None)
        await until(lambda: stage.wire.up)
        assert await stage.find(digest) is None


class HeldWire:
    """A wire whose replies arrive when the test releases them."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.asked = 0
        self.release = asyncio.Event()

    def execute(self, *command: Any) -> asyncio.Future[Any]:
        self.asked += 1
        return asyncio.ensure_future(self._execute(*command))

    async def _execute(self, *command: Any) -> Any:
        reply = await self._wire.execute(*command)
        await self.release.wait()
        return reply


async def test_a_key_that_changes_while_it_is_read_is_not_cached(stage: DirectoryStage) -> None:
    digest = stage.create()
    held = HeldWire(stage.wire)
    directory = RedisDirectory(held, "qs", lambda _: None)  # type: ignore[arg-type]
    reading = asyncio.create_task(directory.find(digest))
    await until(lambda: held.asked)
    directory.forget()
    held.release.set()
    await reading
    assert directory.cached(digest) is None
    await directory.find(digest)
    assert directory.cached(digest)


async def test_I9_a_full_cache_drops_the_key_that_was_read_first(
    stage: DirectoryStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.stores.directory.MOST_CACHED", 2)
    digests = [stage.create(f"k{number}") for number in range(3)]
    for digest in digests:
        await stage.find(digest)
    assert [bool(stage.directory.cached(one)) for one in digests] == [False, True, True]


async def test_a_redis_that_comes_back_without_its_changes_confirms_no_cached_key(
    stage: DirectoryStage, valkey_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a failover to a server that has lost its last writes."""
    digest = stage.create()
    async with stage.following():
        assert await stage.find(digest) == "k1"
        await stage.lose_redis()
        await until(lambda: "key_directory_unreachable" in capsys.readouterr().out)
        with redis.Redis.from_url(valkey_url) as client:
            client.flushdb()
        stage.cable.mend()
        await until(lambda: stage.directory.cached(digest) is None)
        await until(lambda: stage.wire.up)
        assert await stage.find(digest) is None
