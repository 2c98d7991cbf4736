"""Events in a Redis stream, one entry each, with fields `id` and `event`."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from sidecar.errors import SinkDown, SinkRefused

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
        parts = urlsplit(url)
        self._where = f"{parts.hostname}:{parts.port or 6379}"  # without the password
        self._stream = stream_key
        self._maxlen = maxlen
        self._ttl_s = ttl_s
        self._max_event_bytes = max_event_bytes
        self._client: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # the shipper is who tries again
        )

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
        except (RedisError, OSError, TimeoutError) as error:
            raise self._sorted(error) from None
        for reply in replies:
            if isinstance(reply, Exception):
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
        """Close the connections. Idempotent."""
        await self._client.aclose()
