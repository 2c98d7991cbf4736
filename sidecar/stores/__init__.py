"""Limits, API keys and accounts in Redis, and limits in memory.

Only this package builds Redis keys and runs scripts.
"""

from sidecar.stores.connection.connect import Connection, connect
from sidecar.stores.connection.wire import Wire
from sidecar.stores.directory import RedisDirectory
from sidecar.stores.eviction import EvictionWatch
from sidecar.stores.local.journal import Journal
from sidecar.stores.local.store import FallbackStore
from sidecar.stores.memory import MemoryLimitStore
from sidecar.stores.outbox import Outbox
from sidecar.stores.plan_files import PlanFiles
from sidecar.stores.redis import RedisLimitStore

__all__ = [
    "Connection",
    "EvictionWatch",
    "FallbackStore",
    "Journal",
    "MemoryLimitStore",
    "Outbox",
    "PlanFiles",
    "RedisDirectory",
    "RedisLimitStore",
    "Wire",
    "connect",
]
