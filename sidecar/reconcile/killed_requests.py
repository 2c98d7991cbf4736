"""Requests that were in flight when a sidecar was killed: charged, and without an event.

Each start after an unclean stop records their number, not their accounts. So they explain at most
that many requests of all accounts together, in each limit.
"""

from collections.abc import Callable, Iterable

from sidecar.core.events.read import RecordedStop
from sidecar.core.kinds import MICRO, TeamShare
from sidecar.reconcile.period_usage import PeriodUsage
from sidecar.reconcile.plan_history import PlanHistory

_Counter = tuple[str, str, int]  # account, field, start of the period


class KilledRequests:
    """Attributes the requests of unclean stops to counters. `stops`: those read so far."""

    def __init__(self, plans: PlanHistory, stops: Callable[[], Iterable[RecordedStop]]) -> None:
        self._plans = plans
        self._stops = stops
        self._attributed: dict[tuple[str, bool], dict[_Counter, int]] = {}  # requests by limit

    def units_for(self, usage: PeriodUsage) -> int:
        """Return how many units of this counter such requests may have cost.

        Only stops since the start of its period count: the event of a stop comes after it.
        """
        start_us = usage.start - MICRO  # events have milliseconds
        recorded = sum(stop.requests for stop in self._stops() if stop.time_us >= start_us)
        of_limit = self._attributed.get(_limit(usage), {})
        others = sum(units for counter, units in of_limit.items() if counter != _counter(usage))
        return max(0, recorded - others) * self._plans.most_units(usage.limit.meter)

    def attribute(self, usage: PeriodUsage, units: int) -> None:
        """Attribute units to a counter, in place of what it had before."""
        most = self._plans.most_units(usage.limit.meter)
        of_limit = self._attributed.setdefault(_limit(usage), {})
        of_limit[_counter(usage)] = -(-units // most) if units else 0


def _limit(usage: PeriodUsage) -> tuple[str, bool]:
    """A request charges a limit once, and a team's share of it once."""
    return usage.limit.id, isinstance(usage.limit, TeamShare)


def _counter(usage: PeriodUsage) -> _Counter:
    return usage.account, usage.field, usage.start
