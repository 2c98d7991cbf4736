"""A Redis that may evict counters is noticed, in the log and in the readiness of a sidecar."""

from collections.abc import Iterator

import pytest
import redis

from tests.support.events import until
from tests.support.stage import StartStage


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as connection:
        yield connection
        connection.config_set("maxmemory", 0)
        connection.config_set("maxmemory-policy", "noeviction")


async def test_20_eviction_unnoticed(
    client: redis.Redis, stage: StartStage, capsys: pytest.CaptureFixture[str]
) -> None:
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    here = await stage()
    await until(lambda: bool(here.app.eviction.warning))
    readiness = here.app.readiness()
    assert readiness.reasons == []
    assert readiness.degraded == [
        "redis: maxmemory-policy allkeys-lru may evict counters; set it to noeviction"
    ]
    assert "".join(capsys.readouterr()).count("redis_may_evict") == 1
