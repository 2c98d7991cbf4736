"""Plan files in Redis: by their SHA-256, bounded, and there as long as an invoice needs them."""

import hashlib
import os
from collections.abc import Iterator

import pytest
import redis

from sidecar.errors import StoreUnavailable
from sidecar.stores import Connection, PlanFiles, keys
from sidecar.stores.plan_file_reader import LIVE_S, MOST_LIVE, PlanFileReader
from sidecar.stores.plan_files import MOST_BYTES, TTL_MS
from tests.support.servers import free_port

DAY_US = 86_400 * 1_000_000


def version_of(text: bytes) -> str:
    return "sha256:" + hashlib.sha256(text).hexdigest()


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as connection:
        yield connection


async def test_14_a_version_is_found_by_its_hash(wire: Connection, valkey_url: str) -> None:
    store, reader = PlanFiles(wire, "qs"), PlanFileReader(valkey_url, "qs")
    text = b"version: 1\n# \xc3\xa9\n" * 1_000
    assert not await store.renew(version_of(text))
    await store.keep(version_of(text), text)
    assert await store.renew(version_of(text))
    assert reader.find(version_of(text)) == text
    assert reader.find(version_of(b"other")) is None
    assert reader.versions() == [version_of(text)]


@pytest.mark.parametrize("stored", [b"not compressed", b""])
async def test_14_a_changed_text_is_not_returned(
    wire: Connection, valkey_url: str, client: redis.Redis, stored: bytes
) -> None:
    version = version_of(b"version: 1\n")
    await PlanFiles(wire, "qs").keep(version, b"another text")
    assert PlanFileReader(valkey_url, "qs").find(version) is None
    client.hset(keys.plan_files("qs"), version, stored)
    assert PlanFileReader(valkey_url, "qs").find(version) is None


async def test_I9_versions_expire_after_they_were_live(
    wire: Connection, client: redis.Redis
) -> None:
    store, names = PlanFiles(wire, "qs"), (keys.plan_files("qs"), keys.live_plan_files("qs"))
    for name in (b"first", b"second", b"third"):
        await store.keep(version_of(name), name)
    assert all(0 < client.pttl(name) <= TTL_MS for name in names)
    seconds, _ = client.time()
    old = seconds * 1_000_000 - (TTL_MS // 86_400_000 + 1) * DAY_US
    client.zadd(names[1], {version_of(b"first"): old, version_of(b"second"): old})
    client.persist(names[0])
    assert await store.renew(version_of(b"second"))  # it is live again
    left = {version_of(b"second"), version_of(b"third")}
    assert set(client.hkeys(names[0])) == set(client.zrange(names[1], 0, -1)) == left
    assert client.pttl(names[0]) > 0


async def test_I9_the_versions_that_were_live_the_longest_ago_make_room(
    wire: Connection, client: redis.Redis
) -> None:
    store = PlanFiles(wire, "qs")
    texts = [os.urandom(MOST_BYTES // 3) for _ in range(4)]
    for text in texts:
        await store.keep(version_of(text), text)
    kept = client.zrange(keys.live_plan_files("qs"), 0, -1)
    assert kept == [version_of(text) for text in texts[2:]]
    assert set(client.hkeys(keys.plan_files("qs"))) == set(kept)


def test_an_unreachable_redis_is_unavailable() -> None:
    reader = PlanFileReader(f"redis://127.0.0.1:{free_port()}/0", "qs")
    for ask in (lambda: reader.find("sha256:ab"), reader.versions, reader.live):
        with pytest.raises(StoreUnavailable):
            ask()


async def test_live_plan_files_are_those_that_sidecars_have_used_lately(
    wire: Connection, valkey_url: str, client: redis.Redis
) -> None:
    store, reader = PlanFiles(wire, "qs"), PlanFileReader(valkey_url, "qs")
    assert reader.live() == []
    texts = [b"version: %d\n" % number for number in range(MOST_LIVE + 2)]
    for text in texts:
        await store.keep(version_of(text), text)
    assert reader.live() == texts[:1:-1]  # the newest first, at most so many
    seconds, micros = client.time()
    for text, age_s in zip(texts, [*[LIVE_S + 60] * (len(texts) - 1), LIVE_S - 60], strict=True):
        at_us = (seconds - age_s) * 1_000_000 + micros
        client.zadd(keys.live_plan_files("qs"), {version_of(text): at_us})
    assert reader.live() == texts[-1:]
    client.hset(keys.plan_files("qs"), version_of(texts[-1]), b"damaged")
    assert reader.live() == []
