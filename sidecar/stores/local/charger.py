"""What was let pass without Redis is charged there: added up by key, sent until it is confirmed.

A sum is named by the journal and the numbers of its entries, and counts once, so it is sent again
until Redis has answered. While one sum of a key is on its way, the next one gathers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sidecar.core.model import Account, Claim, QuotaLimit
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.stores import keys
from sidecar.stores.commands import Commands
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import Link
from sidecar.stores.connection.wire import ReplyError, encode
from sidecar.stores.scripts import load

log = logger("journal")

AT_ONCE: Final = 500  # sums sent again in one turn
MOST_SUMS: Final = 50_000

Pair = tuple[str, str]  # account and key


@dataclass(slots=True)
class Sum:
    """Entries `first` to `last` of a journal, all of one key. `units` by the name of the limit:
    the limit, the start of its period, and what was used. `late`: Redis was not there, or did
    not take it at once."""

    account: Account
    key_id: str
    journal: str
    first: int
    last: int
    calls: int = 0
    late: bool = False
    units: dict[str, tuple[QuotaLimit, int, int]] = field(default_factory=dict)

    def add(self, seq: int, claims: Sequence[tuple[Claim, int]]) -> None:
        """One more call: its claims, each with the start of its period. Of two periods only the
        later one can still be charged."""
        self.last = seq
        self.calls += 1
        for claim, since_us in claims:
            if isinstance(claim.limit, QuotaLimit):
                name = keys.limit_field(claim.limit, self.key_id)
                _, since, units = self.units.get(name, (claim.limit, since_us, 0))
                if since_us >= since:
                    units = claim.cost + (units if since_us == since else 0)
                    self.units[name] = claim.limit, since_us, units


class Charger:
    """`charged` and `lost` count calls; lost are those that there was no room for. `behind`: keys
    that owe something late, those that were tried longest ago first."""

    def __init__(
        self, wire: Connection, commands: Commands, prefix: str, idle: Callable[[], None]
    ) -> None:
        """`idle` is called when nothing is owed any more."""
        self.charged = self.lost = 0
        self.behind: dict[Pair, None] = {}
        self._wire = wire
        self._commands = commands
        self._prefix = prefix
        self._idle = idle
        self._script = load("limits/charge")
        self._waiting: dict[Pair, Sum] = {}
        self._sent: dict[Pair, Sum] = {}  # frozen until it is confirmed
        self._asked: set[Pair] = set()  # of those, on their way now

    @property
    def owed(self) -> int:
        """Calls that Redis has not confirmed to have charged."""
        return sum(one.calls for sums in (self._waiting, self._sent) for one in sums.values())

    def owe(
        self, account: Account, key_id: str, journal: str, seq: int,
        claims: Sequence[tuple[Claim, int]],
    ) -> None:  # fmt: skip
        """One call: its claims, each with the start of its quota's period."""
        pair = (account.id, key_id)
        one = self._waiting.get(pair)
        if one is None:
            if len(self._waiting) >= MOST_SUMS:
                self.lost += 1
                return
            one = self._waiting[pair] = Sum(account, key_id, journal, seq, seq)
        one.add(seq, claims)
        if self._wire.reachable:
            self._charge(pair)
        else:
            self._is_late(pair, one)

    def _is_late(self, pair: Pair, one: Sum) -> None:
        one.late = True
        self.behind.pop(pair, None)
        self.behind[pair] = None

    def turn(self) -> None:
        """Send what is behind, some of it."""
        for pair in list(self.behind)[:AT_ONCE]:
            self._charge(pair)

    def hurry(self, account_id: str, key_id: str) -> None:
        """Send what this key owes, if it does, before whatever is asked next."""
        if (account_id, key_id) in self.behind:
            self._charge((account_id, key_id))

    def _charge(self, pair: Pair) -> None:
        if pair in self._asked:
            return
        one = self._sent.get(pair) or self._waiting.pop(pair, None)
        if one is None:
            self.behind.pop(pair, None)
            return
        self._sent[pair] = one
        self._asked.add(pair)
        self._send(pair, one, 0)

    def _send(self, pair: Pair, one: Sum, now_us: int) -> None:
        future = self._wire.execute(
            charge_command(self._commands, self._prefix, one, now_us),
            partial(self._late, pair, one),
            self._slot(one),
        )
        future.add_done_callback(lambda done: self._done(pair, one, done))

    def _done(self, pair: Pair, one: Sum, future: Any) -> None:
        if self._sent.get(pair) is not one:
            return
        if future.cancelled() or isinstance(future.exception(), StoreUnavailable):
            self._asked.discard(pair)
            self._is_late(pair, one)
            return
        self._heard(pair, one, future.result())

    def _late(self, pair: Pair, one: Sum, reply: Any, link: Link | None) -> None:
        """A server that was given up may have lost by now what it says that it did."""
        if link is None or not link.aside:
            self._heard(pair, one, reply)

    def _slot(self, one: Sum) -> int:
        return self._commands.slot(one.account.id)

    def _heard(self, pair: Pair, one: Sum, reply: Any) -> None:
        if self._sent.get(pair) is not one:
            return  # a late answer to what was sent twice
        if isinstance(reply, ReplyError):
            if reply.text.startswith("NOSCRIPT"):
                load_it = encode(b"SCRIPT", b"LOAD", self._script.text)
                self._wire.tell(load_it, self._slot(one))
                self._send(pair, one, 0)
                return
            self._asked.discard(pair)
            self._is_late(pair, one)
        elif isinstance(reply, list) and reply[0] == -1:
            self._send(pair, one, reply[1])  # the period is another by now
        else:
            self._confirmed(pair, one)

    def _confirmed(self, pair: Pair, one: Sum) -> None:
        del self._sent[pair]
        self._asked.discard(pair)
        self.charged += one.calls
        waiting = self._waiting.get(pair)
        if waiting is None or not waiting.late:
            self.behind.pop(pair, None)
        if waiting is not None:
            self._charge(pair)
        elif not self._waiting and not self._sent:
            self._idle()


def charge_command(commands: Commands, prefix: str, one: Sum, now_us: int) -> bytes:
    """What lua/limits/charge.lua asks for."""
    return commands.claims(
        load("limits/charge"),
        one.account,
        one.key_id,
        [Claim(limit, units, forced=True) for limit, _, units in one.units.values()],
        now_us,
        beside=keys.charged(prefix, one.account.id, one.journal, one.key_id),
        more=(one.first, one.last, *(since for _, since, _ in one.units.values())),
    )
