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
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidecar.core.model import Account, Key, PlanChange
from sidecar.core.teams import read_teams
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import ReplyError, encode
from sidecar.stores.connection.slots import slot_of

log = logger("directory")

CACHED: Final = 100_000
FRESH_SECONDS: Final = 60.0  # a known key is asked for again after this
UNKNOWN_SECONDS: Final = 5.0
TRUST_SECONDS: Final = 600.0
POLL_SECONDS: Final = 0.25  # how often changes are asked for
AT_ONCE: Final = 1_000  # changes in one answer
DIGITS: Final = 16  # of an instant in µs
COMPLAINTS: Final = 1_000  # accounts that are remembered to have been complained of


class RedisDirectory:
    """Keeps `ports.KeyDirectory`. `run` has to run beside it."""

    def __init__(
        self,
        wire: Connection,
        prefix: str,
        account_of_file: Callable[[str], Account | None],
        *,
        on_change: Callable[[str], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_change` hears of each account that has changed, or was given a pack."""
        self._on_change = on_change
        self._wire = wire
        self._prefix = prefix
        self._account_of_file = account_of_file
        self._now = now
        self._cache: OrderedDict[bytes, tuple[float, Key | None]] = OrderedDict()
        self._heard = now()
        self._generation = 0
        self._complained: set[str] = set()

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
        except StoreUnavailable as error:
            if entry is not None and now - self._heard <= TRUST_SECONDS:
                return entry[1]
            raise StoreUnavailable(f"the key directory cannot be read: {error}") from None
        if generation == self._generation:  # else something changed while we read
            self._cache[digest] = (now, key)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return key

    async def _read(self, digest: bytes) -> Key | None:
        record = await self._hash(keys.credential(self._prefix, digest.hex()))
        if not record:
            return None
        account = await self.account(record["account"])
        return None if account is None else Key(record["id"], account, record.get("team", ""))

    async def account(self, account_id: str) -> Account | None:
        """The account with this id, from the plan file or Redis. Raises StoreUnavailable."""
        account = self._account_of_file(account_id)
        if account is not None:
            return account
        fields = await self._hash(keys.account(self._prefix, account_id))
        if not fields:
            return None
        try:
            return account_from(account_id, fields)
        except StoreUnavailable as error:
            self._complain(account_id, error)
            raise

    def _complain(self, account_id: str, error: StoreUnavailable) -> None:
        """Once for each account, however many calls it makes, until something changes."""
        if account_id not in self._complained:
            if len(self._complained) >= COMPLAINTS:
                self._complained.clear()
            self._complained.add(account_id)
            log.error("account_record_invalid", account=account_id, error=str(error))

    async def _hash(self, name: str) -> dict[str, str]:
        reply = await self._ask(name, "HGETALL", name)
        return _pairs(reply)

    async def _ask(self, key: str, *command: str | int) -> Any:
        reply = await self._wire.execute(encode(*command), None, slot_of(key))
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis refused to tell: {reply.text}")
        return reply

    def forget(self) -> None:
        """Drop everything that is remembered: the plan file, or an unknown part, changed."""
        self._generation += 1
        self._cache.clear()
        self._complained.clear()

    async def run(self) -> None:
        """Follow the changes until cancelled."""
        last: str | None = None
        while True:
            try:
                last = await self._follow(last)
                self._heard = self._now()
            except StoreUnavailable as error:
                if last is not None:
                    log.warning("key_directory_unreachable", error=str(error))
                last = None
            except (KeyError, ValueError, TypeError, IndexError) as error:
                log.error("key_directory_entry_invalid", error=repr(error))
                last = None
            await asyncio.sleep(POLL_SECONDS)

    async def _follow(self, last: str | None) -> str:
        """Take what changed after `last`; the id of the newest change. Raises StoreUnavailable."""
        stream = keys.changes(self._prefix)
        if last is None:
            newest = await self._ask(stream, "XREVRANGE", stream, "+", "-", "COUNT", 1)
            self.forget()  # a change may have been missed
            return str(newest[0][0].decode()) if newest else "0-0"
        read = await self._ask(stream, "XREAD", "COUNT", AT_ONCE, "STREAMS", stream, last)
        for _, changed in read or ():
            for change_id, flat in changed:
                last = change_id.decode()
                self._apply(_pairs(flat))
        return last

    def _apply(self, fields: dict[str, str]) -> None:
        self._generation += 1
        digest = fields.get("digest")
        if digest:
            self._cache.pop(bytes.fromhex(digest), None)
            return
        account = fields.get("account")
        if account and self._on_change is not None:
            self._on_change(account)
        for known, (_, key) in list(self._cache.items()):
            if key is None or key.account.id == account:
                del self._cache[known]


def _pairs(flat: Any) -> dict[str, str]:
    """A hash as Redis lists it: name, value, name, value…"""
    texts = [part.decode() for part in flat or ()]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def account_from(account_id: str, fields: dict[str, str]) -> Account:
    """An account's record as a value. Raises StoreUnavailable, naming the account, when its time
    zone, its anchor or its teams make no sense: nobody could tell its periods or its shares."""
    timezone, anchor = fields.get("timezone", "UTC"), fields.get("anchor")
    try:
        ZoneInfo(timezone)
        day = date.fromisoformat(anchor) if anchor else None
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise StoreUnavailable(
            f"account {account_id}: timezone {timezone!r} or anchor {anchor!r} is not valid"
        ) from None
    try:
        teams = read_teams(fields.get("teams", ""))
    except ValueError as error:
        raise StoreUnavailable(f"account {account_id}: its teams: {error}") from None
    then_us = fields.get("then_us", "") if fields.get("then") else ""
    if then_us and not (then_us.isdigit() and len(then_us) <= DIGITS):
        raise StoreUnavailable(f"account {account_id}: then_us {then_us!r} is no instant")
    return Account(
        id=account_id,
        plan=fields.get("plan", ""),
        timezone=timezone,
        anchor=day,
        suspended=fields.get("status") == "suspended",
        teams=teams,
        webhook=fields.get("webhook") or None,
        then=PlanChange(fields["then"], int(then_us)) if then_us else None,
    )
