"""Limits in Redis: one script, one round trip, one pipelined connection."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from sidecar.core.model import MICRO, Account, Answer, Claim, QuotaLimit
from sidecar.core.periods import bounds
from sidecar.errors import StoreUnavailable
from sidecar.stores import keys
from sidecar.stores.scripts import ClaimArguments, Script, load
from sidecar.stores.wire import ReplyError, Wire, encode

CACHED_COMMANDS: Final = 20_000
DAY_MS: Final = 86_400_000
KEPT_DAYS: Final = {"hour": 36, "day": 36, "week": 42, "month": 66, "cycle": 66}
BUCKET_MARGIN_MS: Final = 3_600_000


class RedisLimitStore:
    """Keeps `ports.LimitStore`. A request's whole command is constant until a period ends, so it
    is encoded once and kept; what is left per request is one lookup and one future."""

    def __init__(self, wire: Wire, prefix: str = "qs") -> None:
        self._wire = wire
        self._prefix = prefix
        self._commands: dict[tuple[str, str, int], tuple[Sequence[Claim], Account, bytes]] = {}
        self._reserve = load("reserve")
        self._peek = load("peek")

    @property
    def up(self) -> bool:
        """Whether Redis answers."""
        return self._wire.up

    async def reserve(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """Grant all claims or none; see `ports.LimitStore`. Raises StoreUnavailable."""
        cached = self._commands.get((account.id, key_id, id(claims)))
        if cached is not None and cached[0] is claims and cached[1] is account:
            reply = await self._wire.execute(cached[2])
            if type(reply) is list and len(reply) > 2 and reply[0] >= 0:
                return Answer(reply[0] == 1, reply[1], tuple(reply[2::2]), tuple(reply[3::2]))
        return await self._build_and_ask(self._reserve, account, key_id, claims, keep=True)

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What `reserve` would answer, changing nothing. Raises StoreUnavailable."""
        return await self._build_and_ask(self._peek, account, key_id, claims, keep=False)

    async def _build_and_ask(
        self, script: Script, account: Account, key_id: str, claims: Sequence[Claim], *, keep: bool
    ) -> Answer:
        now_us = await self._time()
        for _ in range(3):  # a period may end between asking the time and reserving
            command = self._command(script, account, key_id, claims, now_us)
            reply = await self._ask(script, command)
            if reply[0] != -1:
                if keep:
                    if len(self._commands) >= CACHED_COMMANDS:
                        self._commands.clear()
                    name = (account.id, key_id, id(claims))
                    self._commands[name] = (claims, account, command)
                return _answer(reply)
            now_us = reply[1]
        raise StoreUnavailable("Redis time does not stand still long enough to find the period")

    async def _time(self) -> int:
        reply: Any = await self._wire.execute(encode(b"TIME"))
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis does not tell the time: {reply.text}")
        seconds, micros = reply
        return int(seconds) * MICRO + int(micros)

    async def _ask(self, script: Script, command: bytes) -> list[int]:
        reply: Any = await self._wire.execute(command)
        if isinstance(reply, ReplyError):
            if not reply.text.startswith("NOSCRIPT"):
                raise StoreUnavailable(f"Redis refused the script: {reply.text}")
            loading = self._wire.execute(encode(b"SCRIPT", b"LOAD", script.text))
            again = self._wire.execute(command)
            loaded, reply = await asyncio.gather(loading, again)
            for part in (loaded, reply):
                if isinstance(part, ReplyError):
                    raise StoreUnavailable(f"Redis refused the script: {part.text}")
        if not isinstance(reply, list) or len(reply) < 2:
            raise StoreUnavailable("Redis gave an answer that makes no sense")
        return reply

    def _command(
        self, script: Script, account: Account, key_id: str, claims: Sequence[Claim], now_us: int
    ) -> bytes:
        parts: list[bytes | str | int] = [
            b"EVALSHA", script.sha, 1, keys.state(self._prefix, account.id), _ttl_ms(claims)
        ]  # fmt: skip
        for claim in claims:
            limit = claim.limit
            field = keys.limit_field(limit.id, key_id if limit.per == "key" else None)
            forced = int(claim.forced)
            if isinstance(limit, QuotaLimit):
                window = bounds(limit.period, account.timezone, account.anchor, now_us)
                parts += ClaimArguments(
                    "quota", "q/" + field, claim.cost, forced, limit.cap, *window
                )
            else:
                per, span = limit.refill
                cost, cap = claim.cost * MICRO, limit.burst * MICRO
                parts += ClaimArguments("rate", "r/" + field, cost, forced, cap, per, span, 0)
        return encode(*parts)


def _ttl_ms(claims: Sequence[Claim]) -> int:
    """Time to full for buckets, period and 35 days for quotas; the longest of all claims."""
    longest = 0
    for claim in claims:
        limit = claim.limit
        if isinstance(limit, QuotaLimit):
            longest = max(longest, KEPT_DAYS[limit.period] * DAY_MS)
        else:
            to_full_us = limit.burst * MICRO * limit.refill[1] // limit.refill[0]
            longest = max(longest, to_full_us // 1000 + BUCKET_MARGIN_MS)
    return longest


def _answer(reply: list[int]) -> Answer:
    return Answer(reply[0] == 1, reply[1], tuple(reply[2::2]), tuple(reply[3::2]))
