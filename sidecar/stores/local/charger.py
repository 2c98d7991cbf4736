"""Charges requests that were allowed without Redis: one sum per key, sent until it is confirmed.

A sum is named by the journal and the numbers of its entries, and counts once, so it is sent again
until Redis has answered. While one sum of a key is in flight, the next one accumulates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sidecar.core.counting.reservations import NOT_ENDED
from sidecar.core.kinds import PeriodLimit
from sidecar.core.model import Account, Claim
from sidecar.stores import keys
from sidecar.stores.commands import Commands
from sidecar.stores.connection.connect import Connection
from sidecar.stores.scripts import UntilConfirmed, load

RESENT_AT_ONCE: Final = 500
MOST_SUMS: Final = 50_000

Pair = tuple[str, str]  # account and key
# A claim, the start of its quota's period (µs), and the overage that the request's event reports.
DatedClaim = tuple[Claim, int, int]


class ChargedUnits(NamedTuple):
    """Units of one limit, used in the period that started at `since_us`, until `until_us`.

    `reported`: the overage that the requests' events report.
    """

    limit: PeriodLimit
    since_us: int
    until_us: int
    units: int
    reported: int


@dataclass(slots=True)
class Sum:
    """Journal entries `first` to `last` of one key.

    `units` by the limit's field. `ended`: False for requests without an event, whose process died.
    `late`: Redis did not charge it at once.
    """

    account: Account
    key_id: str
    journal: str
    first: int
    last: int
    requests: int = 0
    late: bool = False
    ended: bool = True
    units: dict[str, ChargedUnits] = field(default_factory=dict)

    @property
    def pair(self) -> Pair:
        """The account and key that are charged."""
        return self.account.id, self.key_id

    def add(self, seq: int, at_us: int, claims: Sequence[DatedClaim]) -> None:
        """Add one request of the instant `at_us`.

        If entries fall into two periods, only the later one can still be charged. If the limit
        counts another meter since, only that can be.
        """
        self.last = seq
        self.requests += 1
        for claim, since_us, reported in claims:
            limit, units, over = claim.limit, claim.cost, reported
            if not isinstance(limit, PeriodLimit):
                continue
            name = keys.limit_field(limit, self.key_id)
            known, until_us = self.units.get(name), at_us
            if known is not None and known.limit.meter == limit.meter:
                if at_us < known.since_us:
                    continue
                if since_us <= known.until_us:
                    units, over = units + known.units, over + known.reported
                    until_us = max(at_us, known.until_us)
            self.units[name] = ChargedUnits(limit, since_us, until_us, units, over)


class _Charge(UntilConfirmed):
    """A sum on its way to Redis; nothing is added to it any more."""

    def __init__(self, charger: "Charger", one: Sum) -> None:
        slot = charger.commands.slot(one.account.id)
        super().__init__(charger.wire, load("limits/charge"), slot)
        self.sum = one
        self._charger = charger

    def command(self, now_us: int) -> bytes:
        return charge_command(self._charger.commands, self._charger.prefix, self.sum, now_us)

    def on_confirmed(self, reply: list[int]) -> None:  # noqa: ARG002 - any status counts it once
        self._charger.confirm(self.sum)

    def on_failure(self) -> None:
        self._charger.delay(self.sum)


class Charger:
    """Sums of uncharged requests, by account and key.

    `uncharged` counts requests that Redis has not confirmed; `lost`, over all time, those that
    exceeded `MOST_SUMS`. `delayed` has the keys with late sums, the longest delay first.
    """

    def __init__(
        self,
        wire: Connection,
        commands: Commands,
        prefix: str,
        on_all_charged: Callable[[], None],
    ) -> None:
        self.lost = self.uncharged = 0
        self.delayed: dict[Pair, None] = {}
        self.wire = wire
        self.commands = commands
        self.prefix = prefix
        self._on_all_charged = on_all_charged
        self._sums: dict[Pair, Sum] = {}
        self._charges: dict[Pair, _Charge] = {}

    def add(
        self,
        account: Account,
        key_id: str,
        journal: str,
        seq: int,
        at_us: int,
        claims: Sequence[DatedClaim],
    ) -> None:
        """Charge one request of the instant `at_us`."""
        pair = (account.id, key_id)
        one = self._sums.get(pair)
        if one is None:
            if len(self._sums) >= MOST_SUMS:
                self.lost += 1
                return
            one = self._sums[pair] = Sum(account, key_id, journal, seq, seq)
        one.add(seq, at_us, claims)
        self.uncharged += 1
        if self.wire.reachable:
            self._charge(pair)
        else:
            self.delay(one)

    def delay(self, one: Sum) -> None:
        """Mark a sum as late, and send it in a later turn."""
        one.late = True
        self.delayed.pop(one.pair, None)
        self.delayed[one.pair] = None

    def turn(self) -> None:
        """Send late sums, at most `RESENT_AT_ONCE`."""
        for pair in list(self.delayed)[:RESENT_AT_ONCE]:
            self._charge(pair)

    def charge_first(self, account_id: str, key_id: str) -> None:
        """Send the key's late sum, if there is one, ahead of the next command."""
        if (account_id, key_id) in self.delayed:
            self._charge((account_id, key_id))

    def _charge(self, pair: Pair) -> None:
        charge = self._charges.get(pair)
        if charge is None:
            one = self._sums.pop(pair, None)
            if one is None:
                self.delayed.pop(pair, None)
                return
            charge = self._charges[pair] = _Charge(self, one)
        if not charge.in_flight:
            charge.send()

    def confirm(self, one: Sum) -> None:
        """Forget a sum that Redis has charged, and send the key's next one."""
        del self._charges[one.pair]
        self.uncharged -= one.requests
        following = self._sums.get(one.pair)
        if following is None or not following.late:
            self.delayed.pop(one.pair, None)
        if following is not None:
            self._charge(one.pair)
        elif not self._sums and not self._charges:
            self._on_all_charged()


def charge_command(commands: Commands, prefix: str, one: Sum, now_us: int) -> bytes:
    """The command of `lua/limits/charge.lua` for a sum."""
    units = one.units.values()
    return commands.claims(
        load("limits/charge"),
        one.account,
        one.key_id,
        [Claim(used.limit, used.units, forced=True) for used in units],
        now_us,
        beside=keys.charged(prefix, one.account.id, one.journal, one.key_id),
        more=(
            one.first,
            one.last,
            *[used.until_us for used in units],
            *[used.reported if one.ended else NOT_ENDED for used in units],
        ),
    )
