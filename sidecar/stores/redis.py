"""Limits in Redis: one script, one round trip, one pipelined connection."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sidecar.core.answers import Answer, Hold
from sidecar.core.claims import at_no_cost
from sidecar.core.model import MICRO, Account, Claim, WhenDown
from sidecar.core.shares import Snapshot
from sidecar.errors import StoreUnavailable
from sidecar.stores.commands import Commands, hold_arguments
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import Link, ignore
from sidecar.stores.connection.wire import Late, ReplyError, bulk, encode
from sidecar.stores.scripts import Script, answer_of, load
from sidecar.stores.settler import AsReserved, OnSettled, Settlement, Settler
from sidecar.stores.snapshots import Snapshots

CACHED_COMMANDS: Final = 20_000


@dataclass(slots=True, eq=False)
class _Kept:
    """A command that will come again, what its grant is given back with, and its last answer."""

    claims: Sequence[Claim]
    account: Account
    key_id: str
    slot: int
    command: bytes  # without the hold's id, where there is one
    late: Late
    last: Answer
    settling: AsReserved = field(default_factory=AsReserved)


class RedisLimitStore:
    """Keeps `ports.LimitStore`. A request's whole command is constant until a period ends, so it
    is encoded once and kept; what is left per request is one lookup and one future."""

    def __init__(self, wire: Connection, prefix: str = "qs") -> None:
        self.refunds = 0  # grants that nobody waited for, given back
        self._wire = wire
        self.commands = Commands(prefix)
        self._kept: dict[tuple[str, str, int], _Kept] = {}
        self._kept_of: dict[str, list[_Kept]] = {}  # the same by account
        self._looks = Snapshots()
        self._reserve = load("limits/reserve")
        self._peek = load("limits/peek")
        self._refund = load("limits/refund")
        self.settler = Settler(wire, self.commands, prefix)

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
        hold: Hold | None = None,
        once: bool = False,
        when_down: WhenDown = "deny",  # noqa: ARG002 - the port's; this is who is down
    ) -> Answer:
        """Grant all claims or none; see `ports.LimitStore`. Raises StoreUnavailable."""
        name = (account.id, key_id, id(claims))
        kept = self._kept.get(name)
        if kept is not None and kept.claims is claims and kept.account is account:
            late, command = kept.late, kept.command
            if hold is not None:
                late = partial(self._late_hold, account, key_id, claims, hold)
                command += bulk(hold.id)
            future = self._wire.execute(command, late, kept.slot)
            try:
                reply = await future
            except asyncio.CancelledError:
                _left(future, late)
                raise
            if type(reply) is list and len(reply) > 2 and reply[0] >= 0:
                if hold is not None and reply[0] == 1:
                    self.settler.opened(hold, account, key_id, claims)
                kept.last = answer = answer_of(reply, len(claims))
                return answer
        return await self._first(account, key_id, claims, hold, once=once)

    async def _first(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        *,
        once: bool,
    ) -> Answer:
        """The same for claims that were not asked for lately, or in another period."""
        late: Late = partial(self._give_back, account, key_id, claims)
        heard = late
        more: tuple[str | int, ...] = ()
        if hold is not None:
            heard = partial(self._late_hold, account, key_id, claims, hold)
            more = hold_arguments(hold)
        command, answer = await self._build_and_ask(
            self._reserve, account, key_id, claims, heard, more, leases=hold is not None
        )
        if once:
            self._looks.note(account.id, key_id, claims, answer)
        else:
            if hold is not None:
                command = command.removesuffix(bulk(hold.id))
            slot = self.commands.slot(account.id)
            self._keep(_Kept(claims, account, key_id, slot, command, late, answer))
        if hold is not None and answer.granted:
            self.settler.opened(hold, account, key_id, claims)
        return answer

    def _keep(self, kept: _Kept) -> None:
        if len(self._kept) >= CACHED_COMMANDS:
            self.forget()
        name = (kept.account.id, kept.key_id, id(kept.claims))
        of_account = self._kept_of.setdefault(kept.account.id, [])
        if name in self._kept:
            of_account.remove(self._kept[name])
        of_account.append(kept)
        self._kept[name] = kept

    def forget(self) -> None:
        """Drop the commands that are kept: with a new plan file none of them comes again. What
        their answers told of the limits is still known."""
        for account_id in self._kept_of:
            self._note(account_id)
        self._kept.clear()
        self._kept_of.clear()

    def looks(self, account_id: str) -> Mapping[str, Snapshot]:
        """What Redis said last of an account's limits, by their names in its state."""
        self._note(account_id)
        return self._looks.of(account_id)

    def _note(self, account_id: str) -> None:
        for kept in self._kept_of.get(account_id, ()):
            self._looks.note(account_id, kept.key_id, kept.claims, kept.last)

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What `reserve` would answer, changing nothing. Raises StoreUnavailable."""
        _, answer = await self._build_and_ask(self._peek, account, key_id, claims, None)
        return answer

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: OnSettled | None = None,
    ) -> None:
        """Correct an open reservation and close it; see `ports.LimitStore`."""
        kept = self._kept.get((account.id, key_id, id(claims)))
        again = None
        if kept is not None and kept.claims is claims and kept.account is account:
            again = kept.settling
        self.settler.settle(Settlement(account, key_id, claims, hold_id, on_settled, again))

    def load(self) -> None:
        """Have Redis know the script that `count` needs, as one that has just started does not.
        The nodes of a cluster get it when they come back."""
        self._wire.tell(encode(b"SCRIPT", b"LOAD", self._reserve.text))

    def count(
        self, account: Account, key_id: str, claims: Sequence[Claim], hold: Hold | None = None
    ) -> None:
        """Count forced claims of rates and slots that were taken without asking. Comes before
        whatever is asked later; nobody waits for it, and it is not repeated."""
        more = () if hold is None else hold_arguments(hold)
        command = self.commands.claims(
            self._reserve, account, key_id, claims, 0, more=more, leases=hold is not None
        )
        self._wire.tell(command, self.commands.slot(account.id))
        if hold is not None:
            self.settler.opened(hold, account, key_id, claims)

    def _give_back(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        reply: Any,
        link: Link | None,
    ) -> None:
        """The answer to a reservation came when nobody waited any more (I2: a refusal is free).
        A call that went on without it is in the journal, and charged from there.

        The server that granted it gets it back, whoever is asked now: on another one it would be
        taken from what others have used. A refund that is lost leaves a counter too high.
        """
        if not isinstance(reply, list) or reply[0] != 1:
            return
        self.refunds += 1
        charged_us = reply[1]
        script = self._refund
        command = self.commands.claims(
            script, account, key_id, claims, charged_us, more=(charged_us,), leases=False
        )
        tell = link.tell if link else partial(self._wire.tell, slot=self.commands.slot(account.id))
        # One write: the text goes first, since this happens too rarely to be known there.
        tell(encode(b"SCRIPT", b"LOAD", script.text))
        tell(command)

    def _late_hold(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold,
        reply: Any,
        _link: Link | None,
    ) -> None:
        """The same for one that is held: known by its id, it counts once wherever it is told."""
        if not isinstance(reply, list) or reply[0] != 1:
            return
        self.refunds += 1
        self.settler.settle(Settlement(account, key_id, at_no_cost(claims), hold.id, None))

    async def _build_and_ask(
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
        for _ in range(3):  # a period may end between asking the time and reserving
            command = self.commands.claims(
                script, account, key_id, claims, now_us, more=more, leases=leases
            )
            reply = await self._ask(script, command, late, slot)
            if reply[0] != -1:
                return command, answer_of(reply, len(claims))
            now_us = reply[1]
        raise StoreUnavailable("Redis time does not stand still long enough to find the period")

    async def _time(self, slot: int) -> int:
        reply: Any = await self._wire.execute(encode(b"TIME"), None, slot)
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis does not tell the time: {reply.text}")
        seconds, micros = reply
        return int(seconds) * MICRO + int(micros)

    async def _hear(self, command: bytes, late: Late | None, slot: int) -> Any:
        """The reply."""
        future = self._wire.execute(command, late, slot)
        try:
            return await future
        except asyncio.CancelledError:
            _left(future, late)
            raise

    async def _ask(self, script: Script, command: bytes, late: Late | None, slot: int) -> list[int]:
        reply: Any = await self._hear(command, late, slot)
        if isinstance(reply, ReplyError):
            if not reply.text.startswith("NOSCRIPT"):
                raise StoreUnavailable(f"Redis refused the script: {reply.text}")
            load_it = encode(b"SCRIPT", b"LOAD", script.text)
            loading = self._wire.execute(load_it, None, slot)
            loading.add_done_callback(ignore)
            # Whatever becomes of the load: a grant is a grant, and may not be left unheard.
            reply = await self._hear(command, late, slot)
            if isinstance(reply, ReplyError):
                why = _error_of(loading) or reply.text
                raise StoreUnavailable(f"Redis refused the script: {why}")
        if not isinstance(reply, list) or len(reply) < 2:
            raise StoreUnavailable("Redis gave an answer that makes no sense")
        return reply


def _error_of(loading: "asyncio.Future[Any]") -> str:
    if not loading.done() or loading.cancelled() or loading.exception() is not None:
        return ""
    reply = loading.result()
    return reply.text if isinstance(reply, ReplyError) else ""


def _left(future: "asyncio.Future[Any]", late: Late | None) -> None:
    """The caller was cancelled, maybe in the very moment of the reply: then that is late, too."""
    if late is not None and not future.cancelled() and future.exception() is None:
        late(future.result(), None)
