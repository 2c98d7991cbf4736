"""API keys and accounts in Redis, cached until they change.

Each change is also written to a stream that every sidecar follows. So a revoked key is refused
everywhere within 1 s, and requests with a cached key do not read Redis. While Redis is
unavailable, cached keys stay valid for `TRUST_SECONDS`; other keys get no decision.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sidecar.core.counting.teams import read_teams
from sidecar.core.identity import valid_id
from sidecar.core.model import Account, Key, PlanChange
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import ReplyError, encode
from sidecar.stores.connection.slots import slot_of

log = logger("directory")

GONE: Final = -2  # PTTL of a key that does not exist
MOST_CACHED: Final = 100_000
FRESH_SECONDS: Final = 60.0  # then a cached key is read again
UNKNOWN_SECONDS: Final = 5.0  # for which an unknown key is cached
TRUST_SECONDS: Final = 600.0
POLL_SECONDS: Final = 0.25  # between two reads of changes
CHANGES_AT_ONCE: Final = 1_000
DIGITS: Final = 16  # of an instant in µs
MOST_LOGGED: Final = 1_000  # accounts whose invalid records are logged once


class RedisDirectory:
    """Implements `ports.KeyDirectory`. `run` has to run all the time."""

    def __init__(
        self,
        wire: Connection,
        prefix: str,
        account_of_file: Callable[[str], Account | None],
        *,
        on_change: Callable[[str], None] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_change` gets the id of each account that was changed or got a pack."""
        self._on_change = on_change
        self._wire = wire
        self._prefix = prefix
        self._account_of_file = account_of_file
        self._now = now
        self._cache: OrderedDict[bytes, tuple[float, Key | None, float]] = OrderedDict()
        self._followed_at = now()
        self._generation = 0
        self._logged: set[str] = set()

    def cached(self, digest: bytes) -> Key | None:
        """The key, if it is cached and fresh; None: call `find`."""
        entry = self._cache.get(digest)
        if entry is None or entry[1] is None:
            return None
        now = self._now()
        if now - entry[0] > FRESH_SECONDS or now - self._followed_at > TRUST_SECONDS:
            return None
        return entry[1] if now < entry[2] else None

    async def find(self, digest: bytes) -> Key | None:
        """The key with this SHA-256; None if it is unknown. Raises StoreUnavailable."""
        entry = self._cache.get(digest)
        now = self._now()
        if entry is not None and entry[1] is None and now - entry[0] <= UNKNOWN_SECONDS:
            return None
        generation = self._generation
        try:
            key, left_s = await self._read(digest)
        except StoreUnavailable as error:
            trusted = now - self._followed_at <= TRUST_SECONDS
            if entry is not None and trusted and now < entry[2]:
                return entry[1]
            raise StoreUnavailable(f"the key directory is unavailable: {error}") from None
        if generation == self._generation:  # else it may have changed since it was read
            self._cache[digest] = (now, key, now + left_s)
            if len(self._cache) > MOST_CACHED:
                self._cache.popitem(last=False)
        return key

    async def _read(self, digest: bytes) -> tuple[Key | None, float]:
        """The key with this SHA-256, and the seconds until it expires."""
        name = keys.credential(self._prefix, digest.hex())
        record = await self._hash(name)
        if not record:
            return None, math.inf
        key_id, account_id = record.get("id", ""), record.get("account", "")
        team = record.get("team", "")
        if not (valid_id(key_id) and valid_id(account_id) and (not team or valid_id(team))):
            error = StoreUnavailable("an API key: its id, account or team is not an id")
            self._log_invalid(account_id, error)
            raise error
        account = await self.account(account_id)
        left_ms = await self._execute(name, "PTTL", name)
        if account is None or left_ms == GONE:
            return None, math.inf
        left_s = math.inf if left_ms < 0 else left_ms / 1000
        return Key(key_id, account, team), left_s

    async def account(self, account_id: str) -> Account | None:
        """The account with this id, from the plan file or Redis. Raises StoreUnavailable."""
        account = self._account_of_file(account_id)
        if account is not None:
            return account
        fields = await self._hash(keys.account(self._prefix, account_id), account_id)
        if not fields:
            return None
        try:
            return account_from(account_id, fields)
        except StoreUnavailable as error:
            self._log_invalid(account_id, error)
            raise

    def _log_invalid(self, account_id: str, error: StoreUnavailable) -> None:
        """Log once for each account, until a key or an account changes."""
        if account_id not in self._logged:
            if len(self._logged) >= MOST_LOGGED:
                self._logged.clear()
            self._logged.add(account_id)
            log.error("account_record_invalid", account=account_id, error=str(error))

    async def _hash(self, name: str, account_id: str = "") -> dict[str, str]:
        what = f"account {account_id}" if account_id else "an API key"
        try:
            return _pairs(await self._execute(name, "HGETALL", name))
        except UnicodeDecodeError:
            error = StoreUnavailable(f"{what}: the record is not UTF-8")
        except StoreUnavailable as refused:
            if "WRONGTYPE" not in str(refused):
                raise
            error = StoreUnavailable(f"{what}: the record is not a hash")
        self._log_invalid(account_id, error)
        raise error

    async def _execute(self, key: str, *command: str | int) -> Any:
        reply = await self._wire.execute(encode(*command), None, slot_of(key))
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis refused {command[0]}: {reply.text}")
        return reply

    def forget(self) -> None:
        """Clear the cache, as after a new plan file or a missed change."""
        self._generation += 1
        self._cache.clear()
        self._logged.clear()

    async def run(self) -> None:
        """Follow the changes, until cancelled."""
        last: str | None = None
        unreachable = False
        while True:
            try:
                last = await self._follow(last)
                if unreachable:
                    log.info("key_directory_reachable")
                    unreachable = False
                self._followed_at = self._now()
            except StoreUnavailable as error:
                if last is not None:
                    log.warning("key_directory_unreachable", error=str(error))
                    unreachable = True
                last = None
            except (KeyError, ValueError, TypeError, IndexError) as error:
                log.error("key_directory_entry_invalid", error=repr(error))
                last = None
            await asyncio.sleep(POLL_SECONDS)

    async def _follow(self, last: str | None) -> str:
        """Apply the changes after `last`; the id of the newest one. Raises StoreUnavailable."""
        stream = keys.changes(self._prefix)
        if last is None:
            newest = await self._execute(stream, "XREVRANGE", stream, "+", "-", "COUNT", 1)
            self.forget()  # a change may have been missed
            return str(newest[0][0].decode()) if newest else "0-0"
        read = await self._execute(
            stream, "XREAD", "COUNT", CHANGES_AT_ONCE, "STREAMS", stream, last
        )
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
        for cached, (_, key, _) in list(self._cache.items()):
            if key is None or key.account.id == account:
                del self._cache[cached]


def _pairs(flat: Any) -> dict[str, str]:
    """The fields of a hash, which Redis lists as name, value, name, value, …"""
    texts = [part.decode() for part in flat or ()]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def account_from(account_id: str, fields: dict[str, str]) -> Account:
    """An account's record as a value.

    Raises StoreUnavailable, with the account, if its time zone, anchor, teams or scheduled move
    are invalid: then its periods or guarantees are unknown.
    """
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
        raise StoreUnavailable(f"account {account_id}: teams: {error}") from None
    then_us = fields.get("then_us", "") if fields.get("then") else ""
    if then_us and not (then_us.isdigit() and len(then_us) <= DIGITS):
        raise StoreUnavailable(f"account {account_id}: then_us {then_us!r} is not a time in µs")
    return Account(
        id=account_id,
        plan=fields.get("plan", ""),
        timezone=timezone,
        anchor=day,
        suspended=fields.get("status") == "suspended",
        teams=teams,
        webhook=fields.get("webhook") or None,
        next_plan=PlanChange(fields["then"], int(then_us)) if then_us else None,
    )
