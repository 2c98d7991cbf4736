"""Keys and accounts that live in Redis, read once and kept until somebody changes them.

Every change is also written to a stream that each sidecar follows, so a revoked key stops
everywhere within a second and no request reads Redis for a key it has seen. While Redis is gone,
known keys go on working for `TRUST_SECONDS`; unknown ones cannot be told from wrong ones.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from typing import Any, Final

import redis.asyncio
from redis.exceptions import RedisError

from sidecar.core.model import Account, Key
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.stores import keys

log = logger("directory")

CACHED: Final = 100_000
FRESH_SECONDS: Final = 60.0  # a known key is asked for again after this
UNKNOWN_SECONDS: Final = 5.0
TRUST_SECONDS: Final = 600.0
TIMEOUT_SECONDS: Final = 1.0
BLOCK_MS: Final = 500


class RedisDirectory:
    """Keeps `ports.KeyDirectory`. `run` has to run beside it."""

    def __init__(
        self,
        url: str,
        prefix: str,
        account_of_file: Callable[[str], Account | None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix = prefix
        self._account_of_file = account_of_file
        self._now = now
        self._cache: OrderedDict[bytes, tuple[float, Key | None]] = OrderedDict()
        self._heard = now()
        self._generation = 0
        self._redis: Any = redis.asyncio.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            max_connections=16,
        )

    def cached(self, digest: bytes) -> Key | None:
        """The key if it is in memory and fresh; None says "ask `find`"."""
        entry = self._cache.get(digest)
        if entry is None or entry[1] is None:
            return None
        now = self._now()
        if now - entry[0] > FRESH_SECONDS or now - self._heard > TRUST_SECONDS:
            return None
        return entry[1]

    async def find(self, digest: bytes) -> Key | None:
        """The key with this SHA-256 digest, None if there is none. Raises StoreUnavailable."""
        entry = self._cache.get(digest)
        now = self._now()
        if entry is not None and entry[1] is None and now - entry[0] <= UNKNOWN_SECONDS:
            return None
        generation = self._generation
        try:
            key = await self._read(digest)
        except (RedisError, OSError, TimeoutError) as error:
            if entry is not None and now - self._heard <= TRUST_SECONDS:
                return entry[1]
            raise StoreUnavailable(f"the key directory cannot be read: {error}") from None
        if generation == self._generation:  # else something changed while we read
            self._cache[digest] = (now, key)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return key

    async def _read(self, digest: bytes) -> Key | None:
        record = await self._redis.hgetall(keys.credential(self._prefix, digest.hex()))
        if not record:
            return None
        account_id = record["account"]
        account = self._account_of_file(account_id)
        if account is None:
            fields = await self._redis.hgetall(keys.account(self._prefix, account_id))
            if not fields:
                return None
            account = account_from(account_id, fields)
        return Key(record["id"], account)

    def forget(self) -> None:
        """Drop everything that is remembered: the plan file, or an unknown part, changed."""
        self._generation += 1
        self._cache.clear()

    async def run(self) -> None:
        """Follow the changes until cancelled."""
        stream = keys.changes(self._prefix)
        last: str | None = None
        while True:
            try:
                if last is None:
                    newest = await self._redis.xrevrange(stream, count=1)
                    last = newest[0][0] if newest else "0-0"
                    self.forget()  # a change may have been missed
                read = await self._redis.xread({stream: last}, block=BLOCK_MS, count=1000)
                self._heard = self._now()
                for _, changed in read:
                    for change_id, fields in changed:
                        last = change_id
                        self._apply(fields)
            except (RedisError, OSError, TimeoutError) as error:
                if last is not None:
                    log.warning("the key directory is not reachable", error=type(error).__name__)
                last = None
                await asyncio.sleep(BLOCK_MS / 1000)

    def _apply(self, fields: dict[str, str]) -> None:
        self._generation += 1
        digest = fields.get("digest")
        if digest:
            self._cache.pop(bytes.fromhex(digest), None)
            return
        account = fields.get("account")
        for known, (_, key) in list(self._cache.items()):
            if key is None or key.account.id == account:
                del self._cache[known]

    async def close(self) -> None:
        """Let go of the connections. Idempotent."""
        await self._redis.aclose()


def account_from(account_id: str, fields: dict[str, str]) -> Account:
    """An account's record as a value."""
    anchor = fields.get("anchor")
    return Account(
        id=account_id,
        plan=fields.get("plan", ""),
        timezone=fields.get("timezone", "UTC"),
        anchor=date.fromisoformat(anchor) if anchor else None,
        suspended=fields.get("status") == "suspended",
    )
