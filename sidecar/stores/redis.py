"""Limits in Redis: one script, one round trip, one pipelined connection."""

import asyncio
from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import Any, Final, NamedTuple

from sidecar.core.model import MICRO, Account, Answer, Claim, Limit, QuotaLimit
from sidecar.core.periods import bounds
from sidecar.errors import StoreUnavailable
from sidecar.stores import keys
from sidecar.stores.scripts import ClaimArguments, Script, load
from sidecar.stores.wire import Late, ReplyError, Wire, encode

CACHED_COMMANDS: Final = 20_000
DAY_MS: Final = 86_400_000
KEPT_DAYS: Final = {"hour": 36, "day": 36, "week": 42, "month": 66, "cycle": 66}
BUCKET_MARGIN_MS: Final = 3_600_000
NO_PERIOD: Final = (0, 0, 0)


class _Kept(NamedTuple):
    """A command that will come again, and what its grant is given back with."""

    claims: Sequence[Claim]
    account: Account
    command: bytes
    late: Late
    late_blind: Late


class RedisLimitStore:
    """Keeps `ports.LimitStore`. A request's whole command is constant until a period ends, so it
    is encoded once and kept; what is left per request is one lookup and one future."""

    def __init__(self, wire: Wire, prefix: str = "qs") -> None:
        self.refunds = 0  # grants that nobody waited for, given back
        self._wire = wire
        self._prefix = prefix
        self._commands: dict[tuple[str, str, int], _Kept] = {}
        self._windows: dict[tuple[str, str, date | None], tuple[int, int, int]] = {}
        self._reserve = load("reserve")
        self._peek = load("peek")
        self._refund = load("refund")

    @property
    def up(self) -> bool:
        """Whether Redis answers."""
        return self._wire.up

    async def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        once: bool = False,
        blind: bool = False,
    ) -> Answer:
        """Grant all claims or none; see `ports.LimitStore`. Raises StoreUnavailable."""
        name = (account.id, key_id, id(claims))
        kept = self._commands.get(name)
        if kept is not None and kept.claims is claims and kept.account is account:
            late = kept.late_blind if blind else kept.late
            reply = await self._wire.execute(kept.command, late)
            if type(reply) is list and len(reply) > 2 and reply[0] >= 0:
                return Answer(reply[0] == 1, reply[1], tuple(reply[2::2]), tuple(reply[3::2]))
        give_back = partial(self._give_back, account, key_id, claims)
        late, late_blind = partial(give_back, False), partial(give_back, True)
        command, answer = await self._build_and_ask(
            self._reserve, account, key_id, claims, late_blind if blind else late
        )
        if not once:
            if len(self._commands) >= CACHED_COMMANDS:
                self._commands.clear()
            self._commands[name] = _Kept(claims, account, command, late, late_blind)
        return answer

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What `reserve` would answer, changing nothing. Raises StoreUnavailable."""
        _, answer = await self._build_and_ask(self._peek, account, key_id, claims, None)
        return answer

    def _give_back(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        blind: bool,
        reply: Any,
        cancelled: bool,
    ) -> None:
        """The answer to a reservation came when nobody waited any more (I2: a refusal is free)."""
        if not isinstance(reply, list) or reply[0] != 1 or (blind and not cancelled):
            return
        self.refunds += 1
        charged_us = reply[1]
        script = self._refund
        command = self._command(script, account, key_id, claims, charged_us, charged_us)
        # One write: the text goes first, since this happens too rarely to be known there.
        self._wire.execute(encode(b"SCRIPT", b"LOAD", script.text)).add_done_callback(_seen)
        self._wire.execute(command).add_done_callback(_seen)

    async def _build_and_ask(
        self,
        script: Script,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        late: Late | None,
    ) -> tuple[bytes, Answer]:
        now_us = 0
        if any(self._window(claim.limit, account) is None for claim in claims):
            now_us = await self._time()
        for _ in range(3):  # a period may end between asking the time and reserving
            command = self._command(script, account, key_id, claims, now_us, _ttl_ms(claims))
            reply = await self._ask(script, command, late)
            if reply[0] != -1:
                return command, _answer(reply)
            now_us = reply[1]
        raise StoreUnavailable("Redis time does not stand still long enough to find the period")

    def _window(self, limit: Limit, account: Account) -> tuple[int, int, int] | None:
        """The period's bounds as they were last; () stands for a limit that has none."""
        if not isinstance(limit, QuotaLimit):
            return NO_PERIOD
        return self._windows.get((limit.period, account.timezone, account.anchor))

    def _bounds(self, limit: QuotaLimit, account: Account, now_us: int) -> tuple[int, int, int]:
        """The period's bounds; found anew when `now_us` (0: not known) lies outside of them."""
        name = (limit.period, account.timezone, account.anchor)
        window = self._windows.get(name)
        if window is None or (now_us and not window[0] <= now_us < window[2]):
            window = bounds(limit.period, account.timezone, account.anchor, now_us)
            if len(self._windows) >= CACHED_COMMANDS:
                self._windows.clear()
            self._windows[name] = window
        return window

    async def _time(self) -> int:
        reply: Any = await self._wire.execute(encode(b"TIME"))
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis does not tell the time: {reply.text}")
        seconds, micros = reply
        return int(seconds) * MICRO + int(micros)

    async def _ask(self, script: Script, command: bytes, late: Late | None) -> list[int]:
        reply: Any = await self._wire.execute(command, late)
        if isinstance(reply, ReplyError):
            if not reply.text.startswith("NOSCRIPT"):
                raise StoreUnavailable(f"Redis refused the script: {reply.text}")
            loading = self._wire.execute(encode(b"SCRIPT", b"LOAD", script.text))
            again = self._wire.execute(command, late)
            loaded, reply = await asyncio.gather(loading, again)
            for part in (loaded, reply):
                if isinstance(part, ReplyError):
                    raise StoreUnavailable(f"Redis refused the script: {part.text}")
        if not isinstance(reply, list) or len(reply) < 2:
            raise StoreUnavailable("Redis gave an answer that makes no sense")
        return reply

    def _command(
        self,
        script: Script,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        now_us: int,
        first: int,
    ) -> bytes:
        parts: list[bytes | str | int] = [
            b"EVALSHA", script.sha, 1, keys.state(self._prefix, account.id), first
        ]  # fmt: skip
        for claim in claims:
            limit = claim.limit
            field = keys.limit_field(limit.id, key_id if limit.per == "key" else None)
            forced = int(claim.forced)
            if isinstance(limit, QuotaLimit):
                window = self._bounds(limit, account, now_us)
                parts += ClaimArguments(
                    "quota", "q/" + field, claim.cost, forced, limit.cap, *window
                )
            else:
                per, span = limit.refill
                cost, cap = claim.cost * MICRO, limit.burst * MICRO
                parts += ClaimArguments("rate", "r/" + field, cost, forced, cap, per, span, 0)
        return encode(*parts)


def _seen(future: asyncio.Future[Any]) -> None:
    """A refund that is lost leaves a counter too high, never too low."""
    if not future.cancelled():
        future.exception()


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
