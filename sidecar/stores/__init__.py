"""Limits, keys and accounts: in Redis, the only place that builds a key, sends a command or runs
a script; and limits in memory, which keep the same promise."""

from sidecar.stores.directory import RedisDirectory
from sidecar.stores.fallback import FallbackStore
from sidecar.stores.journal import Journal
from sidecar.stores.memory import MemoryLimitStore
from sidecar.stores.redis import RedisLimitStore
from sidecar.stores.topology import Connection, connect
from sidecar.stores.wire import Wire

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
