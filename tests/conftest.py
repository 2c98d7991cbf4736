"""Fixtures that every suite shares: a real Valkey, and nothing that outlives the run."""

from collections.abc import Iterator

import pytest
import redis
from servers import start_valkey


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
    """Address of this worker's own Valkey, emptied before the test."""
    client = redis.Redis.from_url(_valkey)
    client.flushall()
    client.script_flush()
    client.close()
    return _valkey
