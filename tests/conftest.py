"""Fixtures that all tests share: real Valkey servers, which end with the test run."""

import gc
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from hypothesis import settings

from sidecar.stores import Connection, connect
from tests.support.commands import environment, sidecar, spawn
from tests.support.servers import start_valkey
from tests.support.stores.binaries import binaries
from tests.support.stores.clusters import ACluster, a_cluster
from tests.support.stores.sentinels import Guarded, guarded

__all__ = ["environment", "sidecar", "spawn"]

# A change is judged by the same examples each time; `make nightly` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("free", deadline=None, print_blob=True)
settings.load_profile("fixed")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts background jobs so
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep the thousands of tests out of each later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, port = start_valkey(tmp_path_factory.mktemp("valkey"))
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def valkey_url(_valkey: str) -> str:
    """URL of this test worker's Valkey, emptied before the test."""
    client = redis.Redis.from_url(_valkey)
    client.flushall()
    client.script_flush()
    client.close()
    return _valkey


@pytest.fixture
async def wire(valkey_url: str) -> AsyncIterator[Connection]:
    """A sidecar's connection to this test worker's Valkey."""
    one = connect(valkey_url, timeout_s=5.0)
    await one.start()
    yield one
    await one.stop()


@pytest.fixture(scope="session")
def _cluster() -> Iterator[ACluster]:
    with a_cluster(binaries()[0]) as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: ACluster) -> ACluster:
    """This test worker's cluster of three masters and three replicas, repaired and emptied.

    A test that ends a node restarts it.
    """
    _cluster.site.revive()
    _cluster.until_whole()
    _cluster.flush()
    return _cluster


@pytest.fixture(scope="session")
def _guarded() -> Iterator[Guarded]:
    with guarded(binaries()[0]) as servers:
        yield servers


@pytest.fixture
def sentinels(_guarded: Guarded) -> Guarded:
    """This test worker's master and replica with three sentinels, repaired and emptied."""
    _guarded.site.revive()
    _guarded.flush()
    return _guarded
