"""Reads the events and counters of a running system and compares them.

Events are read before counters, so every event read is charged by then. A charge without an event
is in flight: its open reservation shows it, or an event that comes later.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.core.counting.counters import EMPTY
from sidecar.core.events.read import RecordedRequest, RecordedStop
from sidecar.reconcile.differences import (
    CauseKind,
    CounterComparison,
    compare_counter,
    unreadable,
)
from sidecar.reconcile.killed_requests import KilledRequests
from sidecar.reconcile.period_usage import PeriodUsage
from sidecar.reconcile.plan_history import PlanHistory, resolve_account
from sidecar.reconcile.usage import CounterKey, RecordedUsage
from sidecar.stores import keys
from sidecar.stores.account_state import StoredAccount
from sidecar.stores.inspector import Inspector
from sidecar.stores.local.uncharged import read_uncharged

QUOTA: Final = "q"
TEAM: Final = "t"
ATTEMPTS: Final = 3  # readings of a counter before a difference counts

Comparisons = dict[str, "AccountComparison"]  # by account


class AccountComparison(NamedTuple):
    """The counters of one account, and the state in Redis that they come from."""

    stored: StoredAccount
    counters: tuple[CounterComparison, ...]

    @property
    def unexplained(self) -> bool:
        """Whether a counter has an unexplained difference."""
        return any(one.unexplained for one in self.counters)


class Reconciler:
    """Reader of the counters and events of all accounts, or of `only` one.

    `new_requests` returns the requests recorded since the previous call. `spools`: directories
    that may contain journals. `without_limit`: (account, field) of counters without a current
    limit. `stops`: the unclean stops read so far.
    """

    def __init__(
        self,
        inspector: Inspector,
        new_requests: Callable[[], Iterable[RecordedRequest]],
        plans: PlanHistory,
        spools: Sequence[Path],
        *,
        only: str | None = None,
        stops: Callable[[], Iterable[RecordedStop]] = tuple,
    ) -> None:
        self.without_limit: list[tuple[str, str]] = []
        self.now_us = inspector.now_us()
        self.usage = RecordedUsage(
            plans,
            lambda name, plan: resolve_account(name, plan, plans.current, inspector.record),
            keys.limit_field,
            self.now_us,
        )
        self._inspector = inspector
        self._new_requests = new_requests
        self._spools = spools
        self._only = only
        self._killed = KilledRequests(plans, stops)
        # Units and overage in journals, by account, field and start of the period.
        self._uncharged: dict[tuple[str, str], dict[int, tuple[int, int]]] = {}

    def start(self) -> list[str]:
        """Find the counters, read the events, and return all accounts that have any."""
        names = {self._only} if self._only is not None else set(self._inspector.accounts())
        for name in names:
            stored = self._inspector.read(name)
            fields = self.usage.account(name).add_counters(_counters(stored), stored.state.opened)
            self.without_limit += ((name, field) for field in fields)
        self.read_events()
        return sorted(self.usage.accounts)

    def read_events(self) -> None:
        """Read the events recorded since the last time."""
        add, only = self.usage.add, self._only
        for request in self._new_requests():
            if only is None or request.account == only:
                add(request)

    def read_counters(self, names: Sequence[str]) -> Comparisons:
        """Read and compare these accounts.

        Reads journals before counters: what is charged in between is in both, but never in neither.
        """
        self._uncharged = {}
        uncharged = read_uncharged(self._spools, self._inspector.charged)
        for counter, units in uncharged.units.items():
            periods = self._uncharged.setdefault((counter.account, counter.field), {})
            periods[counter.since_us] = units, uncharged.overage[counter]
        comparisons = {name: self._compare(name, self._inspector.read(name)) for name in names}
        now_us = self._inspector.now_us()
        for name, comparison in comparisons.items():
            self.usage.accounts[name].mark_read(now_us, comparison.stored.state.opened)
        return comparisons

    def with_late_events(self, comparisons: Mapping[str, AccountComparison]) -> Comparisons:
        """Compare the same counters again, with the events read since."""
        return {
            name: self._compare(name, one.stored, late=True) for name, one in comparisons.items()
        }

    def _compare(
        self, name: str, stored: StoredAccount, *, late: bool = False
    ) -> AccountComparison:
        counters = (self._counter(usage, stored, late) for usage in self.usage.accounts[name])
        return AccountComparison(stored, tuple(one for one in counters if one is not None))

    def _counter(
        self, usage: PeriodUsage, stored: StoredAccount, late: bool
    ) -> CounterComparison | None:
        if usage.field in stored.problems or keys.GRANTS in stored.problems:
            return unreadable(usage)
        periods = self._uncharged.get((usage.account, usage.field), {})
        uncharged = [one for since, one in periods.items() if usage.start <= since < usage.end]
        units, overage = (sum(numbers) for numbers in zip((0, 0), *uncharged, strict=True))
        killed = self._killed.units_for(usage)
        compared = compare_counter(usage, stored.state, units, late=late, killed=killed)
        if compared is not None:
            compared = replace(compared, uncharged_overage=overage)
            self._killed.attribute(usage, compared.units_of(CauseKind.KILLED))
        return compared


def _counters(stored: StoredAccount) -> Iterator[CounterKey]:
    """Yield the quotas of an account, including unreadable ones."""
    states = stored.state.states
    for field in sorted({*states, *stored.problems}):
        parts = keys.read_field(field)
        if parts is None:
            continue
        kind, limit_id, owner = parts
        if kind == QUOTA:
            yield CounterKey(field, limit_id, owner, states.get(field, EMPTY))
        elif kind == TEAM and owner:  # no event identifies the usage of keys without a team
            yield CounterKey(field, limit_id, None, states.get(field, EMPTY), owner)


def reconcile(reconciler: Reconciler, wait: Callable[[], None]) -> Comparisons:
    """Compare all accounts.

    Compares unexplained differences again after `wait`, because requests in flight record their
    events when they end.
    """
    names = reconciler.start()
    result: Comparisons = {}
    for attempt in range(ATTEMPTS):
        comparisons = reconciler.read_counters(names)
        result |= comparisons
        unexplained = {name: one for name, one in comparisons.items() if one.unexplained}
        if not unexplained or attempt == ATTEMPTS - 1:
            break
        wait()
        reconciler.read_events()
        again = reconciler.with_late_events(unexplained)
        result |= {name: one for name, one in again.items() if not one.unexplained}
        names = [name for name, one in again.items() if one.unexplained]
    return result
