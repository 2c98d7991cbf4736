"""The difference between a counter and its events, and the causes of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from sidecar.core.counting.counters import EMPTY, in_use
from sidecar.core.counting.counts import counts_of, meter_number
from sidecar.core.counting.reservations import AccountState
from sidecar.core.periods import Window
from sidecar.reconcile.period_usage import PeriodUsage


class CauseKind(StrEnum):
    """Why a counter is not the sum of its events. The last three are unexplained differences."""

    IN_FLIGHT = "in_flight"  # reserved, and the request is in flight
    SETTLING = "settling"  # the request is over, but Redis does not have its actual cost yet
    REFUND_DUE = "refund_due"  # the same for a refunded request
    LATE_EVENTS = "late_events"  # charged, but the event came after the counter was read
    GRANTS = "paid_by_grants"
    UNCHARGED = "uncharged"  # allowed without Redis, and still in a journal
    PERIOD_START = "period_start"  # so near it that Redis may have counted it in the other period
    PLAN_CHANGED = "plan_changed"
    KILLED = "killed"  # in flight when a sidecar was killed: charged, and without an event
    LOST = "lost"  # the counter is too low: a failover, a flush, a restored backup
    EVENTS_MISSING = "events_missing"  # the counter is too high: not all events were read
    UNREADABLE = "unreadable"


UNEXPLAINED = frozenset({CauseKind.LOST, CauseKind.EVENTS_MISSING, CauseKind.UNREADABLE})


class Cause(NamedTuple):
    """A part of a difference: `units` by which the counter is above its events, or below (< 0).

    `requests`: their number, or 0 if it is unknown.
    """

    kind: CauseKind
    units: int
    requests: int = 0


@dataclass(frozen=True, slots=True)
class CounterComparison:
    """One counter in one period, compared with its events.

    `uncharged_overage`: overage that events report of requests which Redis will charge later.
    """

    usage: PeriodUsage
    counter: int
    events: int
    causes: tuple[Cause, ...]
    uncharged_overage: int = 0

    @property
    def difference(self) -> int:
        """The counter minus the events."""
        return self.counter - self.events

    @property
    def unexplained(self) -> bool:
        """Whether a part of the difference is unexplained."""
        return any(cause.kind in UNEXPLAINED for cause in self.causes)

    def units_of(self, kind: CauseKind) -> int:
        """Return the units of the causes of this kind."""
        return sum(cause.units for cause in self.causes if cause.kind is kind)

    @property
    def uncertain(self) -> int:
        """Lost units of requests under an unknown plan file, which may lack this limit."""
        return min(self.usage.uncertain, -self.units_of(CauseKind.LOST))


def compare_counter(
    usage: PeriodUsage,
    state: AccountState,
    uncharged: int,
    *,
    late: bool = False,
    killed: int = 0,
) -> CounterComparison | None:
    """Compare a counter with its events; None if Redis counts a later period already.

    `uncharged`: units in journals. `late`: the fresh units of `usage` came after the counter was
    read, and can explain a difference. `killed`: units that requests may have cost which were in
    flight when a sidecar was killed.
    """
    period = Window(usage.start, usage.end, 0, 0)
    stored, counts = state.states.get(usage.field, EMPTY), counts_of(usage.limit)
    limit = in_use(stored, counts, period, usage.end - 1)
    if limit.since_us >= usage.end:
        return None
    in_period = limit.since_us >= usage.start
    counter = limit.used if in_period else 0
    events = usage.units - usage.fresh if late else usage.units
    reserved = tuple(_reserved(usage, limit.since_us, state, late)) if in_period else ()
    rest = counter - events - sum(cause.units for cause in reserved)
    if rest < 0:
        limits = [
            (CauseKind.GRANTS, _paid_by_grants(usage, state, counter)),
            (CauseKind.UNCHARGED, uncharged),
            (CauseKind.PERIOD_START, usage.edge),
        ]
    else:
        limits = [
            (CauseKind.LATE_EVENTS, usage.arrived if late else 0),
            (CauseKind.PERIOD_START, usage.before),
            (CauseKind.PLAN_CHANGED, usage.elsewhere),
            (CauseKind.KILLED, killed),
        ]
    return CounterComparison(usage, counter, events, (*reserved, *_split(rest, limits)))


def _split(rest: int, limits: Sequence[tuple[CauseKind, int]]) -> Iterator[Cause]:
    """Attribute the rest to the kinds in order, each up to its limit; then as unexplained."""
    sign = -1 if rest < 0 else 1
    for kind, limit in limits:
        units = min(abs(rest), limit)
        if units:
            yield Cause(kind, sign * units)
            rest -= sign * units
    if rest:
        yield Cause(CauseKind.LOST if rest < 0 else CauseKind.EVENTS_MISSING, rest)


def _reserved(
    usage: PeriodUsage, since_us: int, state: AccountState, late: bool
) -> Iterator[Cause]:
    """Yield the causes by open reservations: the counter has their cost, the events do not.

    `since_us`: the start of the counter's period.
    """
    sums: dict[CauseKind, tuple[int, int]] = {}
    for name, reservation in state.opened.items():
        for charge in reservation.charges:
            if charge.kind not in ("quota", "team") or charge.field != usage.field:
                continue
            if charge.since_us != since_us:
                continue
            recorded = None if late and name in usage.fresh_ids else usage.recorded.get(name)
            kind = CauseKind.IN_FLIGHT if recorded is None else CauseKind.SETTLING
            if recorded == 0:
                kind = CauseKind.REFUND_DUE
            units, requests = sums.get(kind, (0, 0))
            sums[kind] = units + charge.cost - (recorded or 0), requests + 1
    for kind, (units, requests) in sorted(sums.items()):
        if units:
            yield Cause(kind, units, requests)


def _paid_by_grants(usage: PeriodUsage, state: AccountState, counter: int) -> int:
    """Return the units that grants may have paid in this period.

    0 while the own units of no plan that the account was on are used up, unless an unknown plan
    file had fewer of them.
    """
    own = usage.limit.units if usage.fewest is None else min(usage.limit.units, usage.fewest)
    if counter < own and not usage.uncertain:
        return 0
    meters = 0, meter_number(usage.limit.meter)
    grants = (one for one in state.grants if one.field == usage.field)
    return sum(grant.used for grant in grants if grant.meter in meters)


def unreadable(usage: PeriodUsage) -> CounterComparison:
    """Return the comparison of a counter that cannot be read."""
    return CounterComparison(usage, 0, usage.units, (Cause(CauseKind.UNREADABLE, 0),))
