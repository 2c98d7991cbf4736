"""A Redis that may evict counters is noticed, also by a user with few rights."""

from collections.abc import Iterator

import pytest
import redis

from sidecar.stores import Wire
from sidecar.stores.eviction import eviction_policy


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as connection:
        yield connection
        connection.config_set("maxmemory", 0)
        connection.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("bound", "policy", "found"),
    [
        ("100mb", "volatile-ttl", "volatile-ttl"),  # all counters have a TTL
        ("100mb", "noeviction", "noeviction"),
        ("0", "allkeys-lru", "noeviction"),  # without a bound, nothing is evicted
    ],
)
async def test_the_policy_counts_only_with_a_bound(
    client: redis.Redis, valkey_url: str, bound: str, policy: str, found: str
) -> None:
    client.config_set("maxmemory", bound)
    client.config_set("maxmemory-policy", policy)
    wire = Wire(valkey_url, timeout_s=2.0)
    await wire.start()
    assert await eviction_policy(wire) == found
    await wire.stop()


async def test_a_user_without_the_right_sees_no_policy(
    client: redis.Redis, valkey_url: str
) -> None:
    client.execute_command("ACL", "SETUSER", "low", "on", ">word", "+ping")
    wire = Wire(valkey_url.replace("://", "://low:word@"), timeout_s=2.0)
    await wire.start()
    try:
        assert await eviction_policy(wire) is None
    finally:
        await wire.stop()
        client.execute_command("ACL", "DELUSER", "low")
