"""The open reservations of this process: renewed while they are open, then settled.

A settlement counts once per reservation, so it is sent again until Redis confirms it. When a
process dies, Redis ends its open reservations by their leases.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sidecar.core.answers import Answer, Hold
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Claim
from sidecar.logs import logger
from sidecar.stores import keys
from sidecar.stores.commands import Commands, settlement_arguments
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.wire import bulk, encode
from sidecar.stores.scripts import UntilConfirmed, answer_of, load

log = logger("stores")

MOST_PENDING: Final = 100_000  # beyond that, the oldest are left to their leases
RESENT_AT_ONCE: Final = 1_000
RENEWED_AT_ONCE: Final = 500  # ids in one command
TURN_SECONDS: Final = 0.5
RENEWALS: Final = 3  # during one lease
CLOSE_SECONDS: Final = 2.0

OnSettled = Callable[[Answer | None], None]
# Start of the lease (loop time), account, lease (µs), key, and the reserved claims.
_Open = tuple[float, Account, int, str, Sequence[Claim]]


@dataclass(slots=True)
class EncodedSettlement:
    """The command that settles claims at their reserved cost, shared by their reservations."""

    command: bytes = b""  # without a reservation's id; b"" until one was settled


class OpenReservation(NamedTuple):
    """A reservation that is not settled yet."""

    hold_id: str
    account: Account
    key_id: str
    claims: Sequence[Claim]


class Settlement(UntilConfirmed):
    """The actual cost of a reservation, until Redis has confirmed it."""

    def __init__(
        self,
        settler: "Settler",
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: OnSettled | None,
        encoded: EncodedSettlement | None,
        *,
        billed: bool,
    ) -> None:
        super().__init__(settler.wire, settler.script, settler.commands.slot(account.id))
        self.hold_id = hold_id
        self._settler = settler
        self._account = account
        self._key_id = key_id
        self._claims = claims
        self._on_settled = on_settled
        self._encoded = encoded
        self._billed = billed

    def command(self, now_us: int) -> bytes:
        encoded, hold_id = self._encoded if self._billed else None, self.hold_id
        if encoded is not None and encoded.command and not now_us:
            return encoded.command + bulk(hold_id)
        more = settlement_arguments(hold_id, billed=self._billed)
        command = self._settler.commands.claims(
            self._script, self._account, self._key_id, self._claims, now_us, more=more
        )
        if encoded is not None:
            encoded.command = command.removesuffix(bulk(hold_id))
        return command

    def on_confirmed(self, reply: list[int]) -> None:
        self._settler.remove(self)
        if self._on_settled is not None:
            self._on_settled(answer_of(reply, len(self._claims)))

    def on_failure(self) -> None:
        self._settler.postpone(self)
        self.report_unconfirmed()

    def report_unconfirmed(self) -> None:
        """Report that the answer does not come now."""
        if self._on_settled is not None:
            self._on_settled(None)


class Settler:
    """Renews the leases of open reservations, and settles them.

    `run` has to run all the time; `close` sends what is left. `dropped` counts settlements that
    exceeded `MOST_PENDING`.
    """

    def __init__(self, wire: Connection, commands: Commands, prefix: str) -> None:
        self.dropped = 0
        self.wire = wire
        self.commands = commands
        self.script = load("limits/settle")
        self._prefix = prefix
        self._renew = load("limits/renew")
        self._loop = asyncio.get_running_loop()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._pending: OrderedDict[str, Settlement] = OrderedDict()

    @property
    def pending(self) -> int:
        """Number of settlements that Redis has not confirmed."""
        return len(self._pending)

    @property
    def open(self) -> int:
        """Number of open reservations."""
        return len(self._open)

    def opened(self, hold: Hold, account: Account, key_id: str, claims: Sequence[Claim]) -> None:
        """Renew the lease of a reservation that was granted, until it is settled."""
        self._open[hold.id] = (self._loop.time(), account, hold.lease_us, key_id, claims)

    def open_reservations(self) -> Iterator[OpenReservation]:
        """The open reservations, the most recently renewed last."""
        for hold_id, (_, account, _, key_id, claims) in self._open.items():
            yield OpenReservation(hold_id, account, key_id, claims)

    def is_open(self, hold_id: str) -> bool:
        """Whether the reservation has not been settled."""
        return hold_id in self._open

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: OnSettled | None = None,
        encoded: EncodedSettlement | None = None,
        *,
        billed: bool = True,
    ) -> None:
        """Settle a reservation at the cost of `claims`, now or as soon as Redis is available.

        `on_settled` gets None if Redis does not answer now, and Redis' answer when it comes.
        `encoded`: for claims at their reserved cost, which others will settle, too.
        """
        self._open.pop(hold_id, None)
        one = Settlement(self, account, key_id, claims, hold_id, on_settled, encoded, billed=billed)
        self._pending[hold_id] = one
        if len(self._pending) > MOST_PENDING:
            dropped = self._pending.popitem(last=False)[1]
            dropped.done = True
            self.dropped += 1
            dropped.report_unconfirmed()
        if self.wire.reachable:
            one.send()
        else:
            one.report_unconfirmed()

    def remove(self, settlement: Settlement) -> None:
        """Forget a settlement that Redis has confirmed."""
        if self._pending.get(settlement.hold_id) is settlement:
            del self._pending[settlement.hold_id]

    def postpone(self, settlement: Settlement) -> None:
        """Send a settlement again, after those that may be for another shard of a cluster."""
        if self._pending.get(settlement.hold_id) is settlement:
            self._pending.move_to_end(settlement.hold_id)

    async def run(self) -> None:
        """Renew leases and send unconfirmed settlements again, until cancelled."""
        while True:
            await asyncio.sleep(TURN_SECONDS)
            self._turn()

    def _turn(self) -> None:
        if not self.wire.reachable:
            return
        for one in [one for one in self._pending.values() if not one.in_flight][:RESENT_AT_ONCE]:
            one.send()
        self._renew_leases()

    def _renew_leases(self) -> None:
        now = self._loop.time()
        due: dict[tuple[str, int], list[str]] = {}
        for hold_id, (since, account, lease_us, *_) in self._open.items():
            if now - since < lease_us / MICRO / RENEWALS:
                break  # those that follow are younger
            due.setdefault((account.id, lease_us), []).append(hold_id)
        if due:
            self.wire.tell(self._renew.load_command())
        for (account_id, lease_us), ids in due.items():
            for at in range(0, len(ids), RENEWED_AT_ONCE):
                renewal = self._renewal(account_id, lease_us, ids[at : at + RENEWED_AT_ONCE])
                self.wire.tell(renewal, self.commands.slot(account_id))
            for hold_id in ids:
                self._open[hold_id] = (now, *self._open.pop(hold_id)[1:])

    def _renewal(self, account_id: str, lease_us: int, ids: list[str]) -> bytes:
        leases = keys.leases(self._prefix, account_id)
        return encode(b"EVALSHA", self._renew.sha, 1, leases, lease_us, *ids)

    async def close(self) -> None:
        """Wait until Redis has confirmed all settlements, for at most `CLOSE_SECONDS`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._pending and self.wire.reachable:
                    self._turn()
                    await asyncio.sleep(0.01)
        if self._pending:
            log.warning("settlements_abandoned", settlements=len(self._pending))
        for one in list(self._pending.values()):
            one.report_unconfirmed()
