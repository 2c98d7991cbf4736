"""A counter and its events: are they equal, and if not, what explains the difference?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from sidecar.core.account import AccountState
from sidecar.core.limits import EMPTY
from sidecar.reconcile.period_usage import Row


class Kind(StrEnum):
    """Why a counter is not the sum of the events. The last three are left to be looked into."""

    IN_FLIGHT = "in_flight"  # reserved, and the call is not over
    SETTLING = "settling"  # the call is over, its real cost is on its way to Redis
    REFUND_DUE = "refund_due"  # the same, and it is refunded
    PASSING = "passing"  # charged, and its event came after the counter was read
    GRANTS = "paid_by_grants"
    JOURNALLED = "journalled"  # let pass without Redis, to be charged
    PERIOD_START = "period_start"  # so near it that the other period may have counted it
    PLAN_CHANGED = "plan_changed"
    LOST = "lost"  # the counter is too low: a failover, a flush, a restore
    MISSING = "events_missing"  # the counter is too high: not all events were given
    UNREADABLE = "unreadable"


LEFT = frozenset({Kind.LOST, Kind.MISSING, Kind.UNREADABLE})


class Cause(NamedTuple):
    """A part of a difference. `units`: by how much the counter is above the events for it, or
    below 0; `calls` where they are known."""

    kind: Kind
    units: int
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One counter in one period."""

    row: Row
    counter: int
    events: int
    whys: tuple[Cause, ...]

    @property
    def difference(self) -> int:
        """The counter minus the events."""
        return self.counter - self.events

    @property
    def left(self) -> bool:
        """Whether something of the difference is not explained."""
        return any(why.kind in LEFT for why in self.whys)

    def of(self, kind: Kind) -> int:
        """Units of this kind."""
        return sum(why.units for why in self.whys if why.kind is kind)

    @property
    def guessed(self) -> int:
        """Of what is lost, the units whose plan file is not at hand: it may have had no such
        limit."""
        return min(self.row.guessed, -self.of(Kind.LOST))


def judge(row: Row, ledger: AccountState, owed: int, *, late: bool = False) -> Verdict | None:
    """None when Redis counts in a later period by now. `owed`: units in journals. `late`: what
    is fresh came after the counter was read, and may explain it."""
    state = ledger.states.get(row.field, EMPTY)
    if state.since_us >= row.end:
        return None
    is_of_it = state.since_us >= row.start
    counter = state.used if is_of_it else 0
    events = row.units - row.fresh if late else row.units
    open_ones = tuple(_open(row, ledger, late)) if is_of_it else ()
    rest = counter - events - sum(why.units for why in open_ones)
    if rest < 0:
        slack = [
            (Kind.GRANTS, _burned(row, ledger, counter)),
            (Kind.JOURNALLED, owed),
            (Kind.PERIOD_START, row.edge),
        ]
    else:
        slack = [
            (Kind.PASSING, row.arrived if late else 0),
            (Kind.PERIOD_START, row.before),
            (Kind.PLAN_CHANGED, row.elsewhere),
        ]
    return Verdict(row, counter, events, (*open_ones, *_explained(rest, slack)))


def _explained(rest: int, slack: Sequence[tuple[Kind, int]]) -> Iterator[Cause]:
    """As much of the rest as each kind can explain, in this order; what is left then."""
    sign = -1 if rest < 0 else 1
    for kind, most in slack:
        units = min(abs(rest), most)
        if units:
            yield Cause(kind, sign * units)
            rest -= sign * units
    if rest:
        yield Cause(Kind.LOST if rest < 0 else Kind.MISSING, rest)


def _open(row: Row, ledger: AccountState, late: bool) -> Iterator[Cause]:
    """Reservations that are not settled: by their cost, the counter is ahead of the events."""
    found: dict[Kind, tuple[int, int]] = {}
    for name, one in ledger.opened.items():
        for charge in one.charges:
            if charge.kind not in ("quota", "team") or charge.field != row.field:
                continue
            if not row.start <= charge.since_us < row.end:
                continue
            told = None if late and name in row.fresh_ids else row.told.get(name)
            kind = Kind.IN_FLIGHT if told is None else Kind.SETTLING
            if told == 0:
                kind = Kind.REFUND_DUE
            units, calls = found.get(kind, (0, 0))
            found[kind] = units + charge.cost - (told or 0), calls + 1
    for kind, (units, calls) in sorted(found.items()):
        if units:
            yield Cause(kind, units, calls)


def _burned(row: Row, ledger: AccountState, counter: int) -> int:
    """What grants can have paid in this period, at most: nothing while the plan's own units are
    not used up, unless another plan file had fewer."""
    if counter < row.limit.units and not row.guessed:
        return 0
    return sum(grant.used for grant in ledger.grants if grant.field == row.field)


def unreadable(row: Row) -> Verdict:
    """The verdict on a counter that cannot be read."""
    return Verdict(row, 0, row.units, (Cause(Kind.UNREADABLE, 0),))
