"""The Redis sink: a stream with one entry per event, which has the fields `id` and `event`."""

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

# Redis errors for a value that it never accepts, in lower case.
_PERMANENT: Final = ("too large", "invalid bulk length", "exceeds maximum")


class RedisSink:
    """Implements `ports.Sink` with `XADD stream MAXLEN ~ maxlen`.

    The key expires `ttl_s` seconds after the last event. Redis assigns the id of an entry, so
    readers recognise a copy by the field `id`.
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
        """Connects to nothing yet. Raises ValueError if `url` is not a Redis URL."""
        address = redis_address(url)
        self._where = str(address)  # without the password
        self._stream = stream_key
        self._maxlen = maxlen
        self._ttl_s = ttl_s
        self._max_event_bytes = max_event_bytes
        self._client, *self._sentinels = _clients(address, timeout_s)

    async def check(self) -> None:
        """Do nothing: the user may have no right but to add, and each event shows an outage."""

    async def send(self, lines: Sequence[bytes]) -> None:
        """Add the lines in one round trip.

        Raises SinkDown. Raises SinkRefused, before it sends anything, if an event is too large or
        has no id.
        """
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
                await self.close()  # a cluster client then finds its nodes again
                raise self._error(reply)

    def _id(self, line: bytes) -> str:
        if len(line) > self._max_event_bytes:
            raise SinkRefused(f"event has {len(line)} bytes, more than {self._max_event_bytes}")
        try:
            event_id = orjson.loads(line)["id"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            event_id = None
        if not isinstance(event_id, str):
            raise SinkRefused("line is not an event: not JSON with a string as id")
        return event_id

    def _error(self, error: Exception) -> SinkDown | SinkRefused:
        text = str(error) or type(error).__name__
        if isinstance(error, ResponseError) and any(word in text.lower() for word in _PERMANENT):
            return SinkRefused(f"Redis at {self._where}: refuses the event: {text}")
        return SinkDown(f"Redis at {self._where}: does not accept events: {text}")

    async def close(self) -> None:
        """Close the connections. A later `send` opens them again. Idempotent."""
        for client in (self._client, *self._sentinels):
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()


def _clients(address: RedisAddress, timeout_s: float) -> tuple[Any, ...]:
    """Return the redis-py client for the topology, then its clients for sentinels.

    They connect to nothing yet.
    """
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    # No retries here: the shipper retries.
    options = timeouts | {"retry": Retry(NoBackoff(), 0)} | address.options()
    if address.topology == "cluster":
        nodes = [ClusterNode(*node) for node in address.nodes]
        return (RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options),)
    if address.topology == "sentinel":
        sentinel_options = timeouts | address.sentinel_options()
        sentinel = Sentinel(address.nodes, sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.master), *sentinel.sentinels
    if address.path:
        return (Redis(unix_socket_path=address.path, **options),)
    host, port = address.nodes[0]
    return (Redis(host=host, port=port, **options),)
