"""A shard pauses for so long that its connection is set aside, and then answers."""

from collections.abc import Iterator

import pytest

from sidecar.errors import StoreUnavailable
from sidecar.stores import RedisLimitStore
from sidecar.stores.connection.cluster import Cluster
from tests.support.stores.binaries import binaries
from tests.support.stores.clusters import ACluster, a_cluster
from tests.support.stores.requests import (
    an_account,
    claims,
    connected,
    slot_of_account,
    until,
    used,
)


@pytest.fixture(scope="module")
def without_replicas() -> Iterator[ACluster]:
    """A cluster without replicas, so that no failover replaces a paused master."""
    with a_cluster(binaries()[0], replicas=False) as cluster:
        yield cluster


async def test_I5_its_late_reservation_is_undone_and_its_node_stays_until_then(
    without_replicas: ACluster,
) -> None:
    async with connected(without_replicas.url, timeout_s=0.2) as redis:
        assert isinstance(redis, Cluster)
        store, account = RedisLimitStore(redis), an_account(1)
        await store.reserve(account, "k1", claims())
        slot = slot_of_account(account)
        node, port = redis._slots[slot], without_replicas.master_of(slot)
        assert node is not None
        without_replicas.site.pause(port)
        try:
            with pytest.raises(StoreUnavailable):
                await store.reserve(account, "k1", claims())
            await until(lambda: bool(node._aside))
            assert node.needed(float("inf"))
        finally:
            without_replicas.site.go_on(port)
        await until(lambda: not node._aside)
        await until(lambda: redis.up)
        assert store.late_reservations == 1
        assert await used(store, account) == 1
