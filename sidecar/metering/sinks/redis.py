"""Events in a Redis stream, one entry each, with fields `id` and `event`."""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from sidecar.errors import SinkDown, SinkRefused
from sidecar.redis_address import RedisAddress, redis_address

DEFAULT_MAXLEN: Final = 1_000_000
DEFAULT_TTL_S: Final = 35 * 86_400
MAX_EVENT_BYTES: Final = 512 << 10

# What Redis answers to a value that it will never take, whenever it is asked.
_NEVER: Final = ("too large", "invalid bulk length", "exceeds maximum")


class RedisSink:
    """`XADD stream MAXLEN ~ maxlen`; the key expires `ttl_s` seconds after the last event.

    The entry's own id is given by Redis: readers recognise an event that was sent twice by
    the field `id`.
    """

    name = "redis"

    def __init__(
        self,
        url: str,
        stream_key: str,
        *,
        maxlen: int = DEFAULT_MAXLEN,
        ttl_s: int = DEFAULT_TTL_S,
        timeout_s: float = 5.0,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        """Raises ValueError for what is no Redis URL."""
        address = redis_address(url)
        self._where = str(address)  # without the password
        self._stream = stream_key
        self._maxlen = maxlen
        self._ttl_s = ttl_s
        self._max_event_bytes = max_event_bytes
        self._client, *self._sentinels = _clients(address, timeout_s)

    async def send(self, lines: Sequence[bytes]) -> None:
        """Add the lines in one round trip. Raises SinkDown, or SinkRefused before anything is
        sent when an event is too large or has no id."""
        entries = [(self._id(line), line) for line in lines]
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for event_id, line in entries:
                    pipe.xadd(
                        self._stream,
                        {"id": event_id, "event": line},
                        maxlen=self._maxlen,
                        approximate=True,
                    )
                pipe.expire(self._stream, self._ttl_s)
                replies: list[Any] = await pipe.execute(raise_on_error=False)
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            replies = [error]
        for reply in replies:
            if isinstance(reply, Exception):
                await self.close()  # a cluster's client will look for its nodes anew
                raise self._sorted(reply)

    def _id(self, line: bytes) -> str:
        if len(line) > self._max_event_bytes:
            raise SinkRefused(f"The event has {len(line)} bytes; {self._max_event_bytes} fit.")
        try:
            event_id = orjson.loads(line)["id"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            event_id = None
        if not isinstance(event_id, str):
            raise SinkRefused("The line is not an event: it is not JSON with a text as id.")
        return event_id

    def _sorted(self, error: Exception) -> SinkDown | SinkRefused:
        text = str(error) or type(error).__name__
        if isinstance(error, ResponseError) and any(word in text.lower() for word in _NEVER):
            return SinkRefused(f"Redis at {self._where} refuses the event: {text}")
        return SinkDown(f"Redis at {self._where} takes no events now: {text}")

    async def close(self) -> None:
        """Close the connections. Idempotent; what is sent later opens them again."""
        for client in (self._client, *self._sentinels):
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()


def _clients(address: RedisAddress, timeout_s: float) -> tuple[Any, ...]:
    """redis-py's client for each topology, then its clients for the sentinels. They connect to
    nothing yet."""
    asked = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    # The shipper is who tries again.
    options = asked | {"retry": Retry(NoBackoff(), 0)} | address.options()
    if address.topology == "cluster":
        nodes = [ClusterNode(*node) for node in address.nodes]
        return (RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options),)
    if address.topology == "sentinel":
        of_sentinels = asked | address.sentinel_options()
        sentinel = Sentinel(address.nodes, sentinel_kwargs=of_sentinels, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.master), *sentinel.sentinels
    if address.path:
        return (Redis(unix_socket_path=address.path, **options),)
    host, port = address.nodes[0]
    return (Redis(host=host, port=port, **options),)
