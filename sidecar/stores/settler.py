"""Open reservations of this process: kept alive, and settled though Redis may be gone for a while.

A settlement is known by its reservation's id and counts once, so it is sent again until Redis
has answered. What a process leaves behind when it dies, Redis ends by the leases.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from sidecar.core.answers import Answer, Hold
from sidecar.core.model import MICRO, Account, Claim
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.stores import keys
from sidecar.stores.commands import Commands
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import Link
from sidecar.stores.connection.wire import ReplyError, bulk, encode
from sidecar.stores.scripts import answer_of, load

log = logger("stores")

MOST_UNSETTLED: Final = 100_000  # beyond that, the oldest are left to their leases
AT_ONCE: Final = 1_000  # sent again in one turn
RENEWED_AT_ONCE: Final = 500  # ids in one command
TURN_SECONDS: Final = 0.5
RENEWALS: Final = 3  # in the time of one lease
CLOSE_SECONDS: Final = 2.0

OnSettled = Callable[[Answer], None]
# Since when its lease runs (loop time), for how long (µs), and what was reserved.
_Open = tuple[float, Account, int, str, Sequence[Claim]]


@dataclass(slots=True)
class AsReserved:
    """The command that settles at what was reserved, for all reservations of the same claims."""

    command: bytes = b""  # without a reservation's id; b"" until one was settled


class Settlement(NamedTuple):
    """What a reservation really cost. `told` hears Redis' answer, if it was open until then.
    `again`: it cost what was reserved, and others will."""

    account: Account
    key_id: str
    claims: Sequence[Claim]
    hold_id: str
    on_settled: OnSettled | None
    again: AsReserved | None = None


class OpenReservation(NamedTuple):
    """An open reservation."""

    hold_id: str
    account: Account
    key_id: str
    claims: Sequence[Claim]


class Settler:
    """`run` has to run beside it; `close` sends what is left."""

    def __init__(self, wire: Connection, commands: Commands, prefix: str) -> None:
        self.given_up = 0  # settlements that there was no room for
        self._wire = wire
        self._commands = commands
        self._prefix = prefix
        self._settle = load("limits/settle")
        self._renew = load("limits/renew")
        self._loop = asyncio.get_running_loop()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._unsettled: OrderedDict[str, Settlement] = OrderedDict()
        self._asked: set[str] = set()  # of those, sent and not answered yet

    @property
    def waiting(self) -> int:
        """Settlements that Redis has not confirmed."""
        return len(self._unsettled)

    @property
    def open(self) -> int:
        """Reservations of calls in flight."""
        return len(self._open)

    def opened(self, hold: Hold, account: Account, key_id: str, claims: Sequence[Claim]) -> None:
        """A reservation was granted: its lease is renewed until it is settled."""
        self._open[hold.id] = (self._loop.time(), account, hold.lease_us, key_id, claims)

    def open_reservations(self) -> Iterator[OpenReservation]:
        """The open reservations."""
        for hold_id, (_, account, _, key_id, claims) in self._open.items():
            yield OpenReservation(hold_id, account, key_id, claims)

    def is_open(self, hold_id: str) -> bool:
        """Whether the reservation has not been settled."""
        return hold_id in self._open

    def settle(self, settlement: Settlement) -> None:
        """Send it now, and again until Redis has answered."""
        self._open.pop(settlement.hold_id, None)
        self._unsettled[settlement.hold_id] = settlement
        if len(self._unsettled) > MOST_UNSETTLED:
            self._unsettled.popitem(last=False)
            self.given_up += 1
        self._send(settlement, 0)

    def _send(self, settlement: Settlement, now_us: int) -> None:
        if not self._wire.reachable:
            return
        command = self._command(settlement, now_us)
        self._asked.add(settlement.hold_id)
        slot = self._commands.slot(settlement.account.id)
        future = self._wire.execute(command, partial(self._late, settlement), slot)
        future.add_done_callback(lambda done: self._done(settlement, done))

    def _command(self, settlement: Settlement, now_us: int) -> bytes:
        again, hold_id = settlement.again, settlement.hold_id
        if again is not None and again.command and not now_us:
            return again.command + bulk(hold_id)
        command = self._commands.claims(
            self._settle, settlement.account, settlement.key_id, settlement.claims, now_us,
            more=(hold_id,),
        )  # fmt: skip
        if again is not None:
            again.command = command.removesuffix(bulk(hold_id))
        return command

    def _done(self, settlement: Settlement, future: "asyncio.Future[Any]") -> None:
        if future.cancelled() or isinstance(future.exception(), StoreUnavailable):
            self._asked.discard(settlement.hold_id)
            if settlement.hold_id in self._unsettled:
                # `run` sends it again, after those that may be for another part of a cluster.
                self._unsettled.move_to_end(settlement.hold_id)
            return
        self._heard(settlement, future.result())

    def _late(self, settlement: Settlement, reply: Any, link: Link | None) -> None:
        """A server that was given up may have lost by now what it says that it did."""
        if link is None or not link.aside:
            self._heard(settlement, reply)

    def _heard(self, settlement: Settlement, reply: Any) -> None:
        self._asked.discard(settlement.hold_id)
        if settlement.hold_id not in self._unsettled:
            return  # a late answer to what was sent twice
        if isinstance(reply, ReplyError):
            if reply.text.startswith("NOSCRIPT"):
                slot = self._commands.slot(settlement.account.id)
                self._wire.tell(encode(b"SCRIPT", b"LOAD", self._settle.text), slot)
                self._send(settlement, 0)
            return
        if not isinstance(reply, list) or len(reply) < 2:
            return
        if reply[0] == -1:
            self._send(settlement, reply[1])  # the period is another by now
            return
        del self._unsettled[settlement.hold_id]
        if reply[0] == 1 and settlement.on_settled is not None:
            settlement.on_settled(answer_of(reply, len(settlement.claims)))

    async def run(self) -> None:
        """Renew leases and send again what was not answered, until cancelled."""
        while True:
            await asyncio.sleep(TURN_SECONDS)
            self._turn()

    def _turn(self) -> None:
        if not self._wire.reachable:
            return
        for hold_id in [one for one in self._unsettled if one not in self._asked][:AT_ONCE]:
            self._send(self._unsettled[hold_id], 0)
        self._renew_leases()

    def _renew_leases(self) -> None:
        now = self._loop.time()
        due: dict[tuple[str, int], list[str]] = {}
        for hold_id, (since, account, lease_us, *_) in self._open.items():
            if now - since < lease_us / MICRO / RENEWALS:
                break  # those that follow are younger
            due.setdefault((account.id, lease_us), []).append(hold_id)
        if due:
            self._wire.tell(encode(b"SCRIPT", b"LOAD", self._renew.text))
        for (account_id, lease_us), ids in due.items():
            for at in range(0, len(ids), RENEWED_AT_ONCE):
                some = ids[at : at + RENEWED_AT_ONCE]
                renewal = self._renewal(account_id, lease_us, some)
                self._wire.tell(renewal, self._commands.slot(account_id))
            for hold_id in ids:
                self._open[hold_id] = (now, *self._open.pop(hold_id)[1:])

    def _renewal(self, account_id: str, lease_us: int, ids: list[str]) -> bytes:
        leases = keys.leases(self._prefix, account_id)
        return encode(b"EVALSHA", self._renew.sha, 1, leases, lease_us, *ids)

    async def close(self) -> None:
        """Wait for what is under way, for a bounded time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._unsettled and self._wire.reachable:
                    self._turn()
                    await asyncio.sleep(0.01)
        if self._unsettled:
            log.warning("settlements_abandoned", count=len(self._unsettled))
