"""Limits, keys and accounts: in Redis, the only place that builds a key, sends a command or runs
a script; and limits in memory, which keep the same promise."""

from sidecar.stores.connection.connect import Connection, connect
from sidecar.stores.connection.wire import Wire
from sidecar.stores.directory import RedisDirectory
from sidecar.stores.local.journal import Journal
from sidecar.stores.local.store import FallbackStore
from sidecar.stores.memory import MemoryLimitStore
from sidecar.stores.redis import RedisLimitStore

__all__ = [
    "Connection",
    "FallbackStore",
    "Journal",
    "MemoryLimitStore",
    "RedisDirectory",
    "RedisLimitStore",
    "Wire",
    "connect",
]
