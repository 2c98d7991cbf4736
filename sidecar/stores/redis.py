"""Limits in Redis: one script and one round trip per request, on a pipelined connection."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sidecar.core.answers import Answer, Hold
from sidecar.core.claims import at_no_cost
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Claim, WhenDown
from sidecar.core.shares import Snapshot
from sidecar.errors import StoreUnavailable
from sidecar.stores.commands import Commands, hold_arguments
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import Late, Link, ReplyError, bulk, encode
from sidecar.stores.scripts import (
    OTHER_PERIOD,
    Script,
    answer_of,
    load,
    pass_late,
    run_command,
)
from sidecar.stores.settler import EncodedSettlement, OnSettled, Settler
from sidecar.stores.snapshots import Snapshots

# Answers instead of Redis, which is unavailable for the reason in the error; may raise that error.
Fallback = Callable[
    [StoreUnavailable, Account, str, Sequence[Claim], Hold | None, WhenDown], Answer
]
CACHED_COMMANDS: Final = 20_000
_TRIES: Final = 3  # a period may end between reading the time and reserving


@dataclass(slots=True, eq=False)
class _Cached:
    """The encoded commands of an entitlement's claims, and the last answer to them."""

    claims: Sequence[Claim]
    account: Account
    key_id: str
    slot: int
    command: bytes  # without the hold's id, where there is one
    late: Late
    last: Answer
    settlement: EncodedSettlement = field(default_factory=EncodedSettlement)


class RedisLimitStore:
    """Implements `ports.LimitStore`. `run` has to run all the time; `close` comes last.

    The command for a key's claims is constant until a period ends, so it is encoded once and
    cached. A request then costs one lookup and one future. `late_reservations` counts grants
    that came too late for their request and were undone.
    """

    def __init__(self, wire: Connection, prefix: str = "qs") -> None:
        self.late_reservations = 0
        self.commands = Commands(prefix)
        self.settler = Settler(wire, self.commands, prefix)
        self._wire = wire
        self._cached: dict[tuple[str, str, int], _Cached] = {}
        self._cached_of: dict[str, list[_Cached]] = {}  # the same by account
        self._snapshots = Snapshots()
        self._reserve = load("limits/reserve")
        self._peek = load("limits/peek")
        self._refund = load("limits/refund")

    @property
    def up(self) -> bool:
        """Whether Redis is available."""
        return self._wire.up

    async def run(self) -> None:
        """Renew leases and repeat unconfirmed settlements, until cancelled."""
        await self.settler.run()

    async def close(self) -> None:
        """Wait for a bounded time until all settlements are confirmed."""
        await self.settler.close()

    async def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        hold: Hold | None = None,
        once: bool = False,
        when_down: WhenDown = "deny",
        fallback: Fallback | None = None,
    ) -> Answer:
        """Grant all claims or none; see `ports.LimitStore`. Raises StoreUnavailable.

        `fallback` answers instead if Redis is unavailable. It is a parameter because another
        coroutine around this one would cost each request more.
        """
        name = (account.id, key_id, id(claims))
        cached = self._cached.get(name)
        try:
            if cached is not None and cached.claims is claims and cached.account is account:
                late, command = cached.late, cached.command
                if hold is not None:
                    late = partial(self._release_late_hold, account, key_id, claims, hold)
                    command += bulk(hold.id)
                future = self._wire.execute(command, late, cached.slot)
                try:
                    reply = await future
                except asyncio.CancelledError:
                    pass_late(future, late)
                    raise
                if type(reply) is list and len(reply) > 2 and reply[0] >= 0:
                    if hold is not None and reply[0] == 1:
                        self.settler.opened(hold, account, key_id, claims)
                    cached.last = answer = answer_of(reply, len(claims))
                    return answer
            return await self._reserve_uncached(account, key_id, claims, hold, once=once)
        except StoreUnavailable as error:
            if fallback is None:
                raise
            return fallback(error, account, key_id, claims, hold, when_down)

    async def _reserve_uncached(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        *,
        once: bool,
    ) -> Answer:
        """Reserve with a new command, for new claims, in another period, or after an error."""
        late: Late = partial(self._refund_late, account, key_id, claims)
        late_now = late
        more: tuple[str | int, ...] = ()
        if hold is not None:
            late_now = partial(self._release_late_hold, account, key_id, claims, hold)
            more = hold_arguments(hold)
        command, answer = await self._encode_and_run(
            self._reserve, account, key_id, claims, late_now, more, leases=hold is not None
        )
        if once:
            self._snapshots.note(account.id, key_id, claims, answer)
        else:
            if hold is not None:
                command = command.removesuffix(bulk(hold.id))
            slot = self.commands.slot(account.id)
            self._cache(_Cached(claims, account, key_id, slot, command, late, answer))
        if hold is not None and answer.granted:
            self.settler.opened(hold, account, key_id, claims)
        return answer

    def _cache(self, cached: _Cached) -> None:
        if len(self._cached) >= CACHED_COMMANDS:
            self.forget()
        name = (cached.account.id, cached.key_id, id(cached.claims))
        of_account = self._cached_of.setdefault(cached.account.id, [])
        if name in self._cached:
            of_account.remove(self._cached[name])
        of_account.append(cached)
        self._cached[name] = cached

    def forget(self) -> None:
        """Drop the cached commands, as after a new plan file. Snapshots of limits stay."""
        for account_id in self._cached_of:
            self._note(account_id)
        self._cached.clear()
        self._cached_of.clear()

    def snapshots(self, account_id: str) -> Mapping[str, Snapshot]:
        """The last known state of an account's limits, by their fields."""
        self._note(account_id)
        return self._snapshots.of(account_id)

    def _note(self, account_id: str) -> None:
        for cached in self._cached_of.get(account_id, ()):
            self._snapshots.note(account_id, cached.key_id, cached.claims, cached.last)

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What `reserve` would answer, changing nothing. Raises StoreUnavailable."""
        _, answer = await self._encode_and_run(self._peek, account, key_id, claims, None)
        return answer

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: OnSettled | None = None,
        *,
        billed: bool = True,
    ) -> None:
        """Correct an open reservation and close it; see `ports.LimitStore`."""
        cached = self._cached.get((account.id, key_id, id(claims)))
        encoded = None
        if cached is not None and cached.claims is claims and cached.account is account:
            encoded = cached.settlement
        self.settler.settle(account, key_id, claims, hold_id, on_settled, encoded, billed=billed)

    def load_count_script(self) -> None:
        """Load the script that `count` runs into a Redis that may have restarted.

        Nodes of a cluster get it when they are available again.
        """
        self._wire.tell(self._reserve.load_command())

    def count(
        self, account: Account, key_id: str, claims: Sequence[Claim], hold: Hold | None = None
    ) -> None:
        """Count forced claims on rates and slots that were granted without Redis.

        The command precedes all later ones. Its reply is ignored, and it is not repeated.
        """
        more = () if hold is None else hold_arguments(hold)
        command = self.commands.claims(
            self._reserve, account, key_id, claims, 0, more=more, leases=hold is not None
        )
        self._wire.tell(command, self.commands.slot(account.id))
        if hold is not None:
            self.settler.opened(hold, account, key_id, claims)

    def _refund_late(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        reply: Any,
        link: Link | None,
    ) -> None:
        """Undo a reservation that was granted after its request had given up waiting.

        I2: a refusal is free. A request that was allowed without Redis is in the journal, and is
        charged from there. The refund goes to the server that granted the reservation: on
        another one it would take from other requests. A lost refund leaves a counter too high.
        """
        if not isinstance(reply, list) or reply[0] != 1:
            return
        self.late_reservations += 1
        charged_us, answer = reply[1], answer_of(reply, len(claims))
        reported = [detail.overage for detail in answer.details] or [0] * len(claims)
        if -1 in answer.ends_us:  # what was not counted is not taken back
            counted = [at for at, end_us in enumerate(answer.ends_us) if end_us != -1]
            claims, reported = [claims[at] for at in counted], [reported[at] for at in counted]
        script, slot = self._refund, self.commands.slot(account.id)
        command = self.commands.claims(
            script, account, key_id, claims, charged_us, more=(charged_us, *reported), leases=False
        )
        tell = link.tell if link else partial(self._wire.tell, slot=slot)
        # Both are one write. This is too rare to count on the script being loaded there.
        tell(script.load_command())
        tell(command)

    def _release_late_hold(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold,
        reply: Any,
        _link: Link | None,
    ) -> None:
        """Undo a late reservation that has an id: it is settled at no cost, on any server."""
        if not isinstance(reply, list) or reply[0] != 1:
            return
        self.late_reservations += 1
        self.settler.settle(account, key_id, at_no_cost(claims), hold.id, billed=False)

    async def _encode_and_run(
        self,
        script: Script,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        late: Late | None,
        more: Sequence[str | int] = (),
        *,
        leases: bool = True,
    ) -> tuple[bytes, Answer]:
        slot = self.commands.slot(account.id)
        now_us = await self._time(slot) if self.commands.needs_time(account, claims) else 0
        for _ in range(_TRIES):
            command = self.commands.claims(
                script, account, key_id, claims, now_us, more=more, leases=leases
            )
            reply = await run_command(self._wire, script, command, slot, late)
            if reply[0] != OTHER_PERIOD:
                return command, answer_of(reply, len(claims))
            now_us = reply[1]
        raise StoreUnavailable("the clock of Redis moves too fast to find the current period")

    async def _time(self, slot: int) -> int:
        reply: Any = await self._wire.execute(encode(b"TIME"), None, slot)
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis refused TIME: {reply.text}")
        seconds, micros = reply
        return int(seconds) * MICRO + int(micros)
