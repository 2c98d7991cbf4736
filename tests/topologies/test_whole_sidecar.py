"""A real `sidecar serve` counts and ships on each topology, and reports to be ready."""

import asyncio

import pytest

from sidecar.redis_address import redis_address
from sidecar.stores import keys
from sidecar.stores.client import open_client
from tests.support.processes import SlowApi, StartServing


@pytest.fixture(params=["sentinels", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param).url)


def counted_and_shipped(url: str) -> tuple[bool, int]:
    """Whether the account has a state, and how many events arrived."""
    client = open_client(redis_address(url))
    try:
        return bool(client.exists(keys.state("qs", "acme"))), int(client.xlen(keys.events("qs")))
    finally:
        client.close()


async def test_a_sidecar_serves(url: str, serving: StartServing, slow_api: SlowApi) -> None:
    slow_api.release.set()
    one = await serving(redis=url, upstream=f"http://127.0.0.1:{slow_api.port}", sinks="redis")
    for _ in range(3):
        assert (await one.call("/items"))[0] == 200
    async with asyncio.timeout(60):
        while await asyncio.to_thread(counted_and_shipped, url) != (True, 3):
            await asyncio.sleep(0.01)
    assert (await one.ask("/readyz"))[0] == 200
    assert "\nsidecar_store_up 1.0\n" in (await one.ask("/metrics"))[1]
    assert not one.said("redis_unreachable_at_start")
