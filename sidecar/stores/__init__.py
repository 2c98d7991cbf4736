"""Redis: the only place that builds a key, sends a command or runs a script."""

from sidecar.stores.directory import RedisDirectory
from sidecar.stores.redis import RedisLimitStore
from sidecar.stores.wire import Wire

__all__ = ["RedisDirectory", "RedisLimitStore", "Wire"]
