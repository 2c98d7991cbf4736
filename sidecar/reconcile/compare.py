"""Reads events and counters of a living system so that they can be compared.

Events are read before counters: what an event tells was charged by then. What was charged and has
no event yet is in flight, and told apart by its open reservation, or by the event that comes later.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.core.events.read import RecordedRequest
from sidecar.reconcile.differences import Verdict, judge, unreadable
from sidecar.reconcile.period_usage import Row
from sidecar.reconcile.plan_history import PlanFiles, who
from sidecar.reconcile.usage import CounterKey, Usage
from sidecar.stores import keys
from sidecar.stores.account_state import OpenReservation
from sidecar.stores.inspector import Inspector
from sidecar.stores.local.uncharged import owed

QUOTA: Final = "q"
TEAM: Final = "t"
LOOKS: Final = 3  # at a difference, until it counts as one


class AccountComparison(NamedTuple):
    """One account as it was read."""

    held: OpenReservation
    verdicts: tuple[Verdict, ...]

    @property
    def left(self) -> bool:
        """Whether there is a difference that nothing explains."""
        return any(one.left for one in self.verdicts)


class Reconciler:
    """`new_requests`: those that were recorded since it was called last. `spools`: directories in
    which journals may lie. `only`: one account; None: all.

    `gone`: (account, field) of counters whose limit no plan has.
    """

    def __init__(
        self,
        inspector: Inspector,
        new_requests: Callable[[], Iterable[RecordedRequest]],
        plans: PlanFiles,
        spools: Sequence[Path],
        *,
        only: str | None = None,
    ) -> None:
        self.gone: list[tuple[str, str]] = []
        self.now_us = inspector.now_us()
        self.usage = Usage(
            plans,
            lambda name, plan: who(name, plan, plans.today, inspector.record),
            keys.limit_field,
            self.now_us,
        )
        self._inspector = inspector
        self._new_calls = new_requests
        self._spools = spools
        self._only = only
        self._debts: dict[tuple[str, str], dict[int, int]] = {}

    def begin(self) -> list[str]:
        """Learn which counters there are, and read the events; all accounts that have any."""
        names = {self._only} if self._only is not None else set(self._inspector.accounts())
        for name in names:
            held = self._inspector.read(name)
            gone = self.usage.account(name).open(_counters(held), held.ledger.opened)
            self.gone += ((name, field) for field in gone)
        self.read_events()
        return sorted(self.usage.accounts)

    def read_events(self) -> None:
        """Those that have come since the last time."""
        add, only = self.usage.add, self._only
        for call in self._new_calls():
            if only is None or call.account == only:
                add(call)

    def read_counters(self, names: Sequence[str]) -> dict[str, AccountComparison]:
        """These accounts as they are now. Journals first: what is charged meanwhile is in both."""
        self._debts = {}
        for debt, units in owed(self._spools, self._inspector.charged).items():
            self._debts.setdefault((debt.account, debt.field), {})[debt.since_us] = units
        looks = {name: self._judged(name, self._inspector.read(name)) for name in names}
        now_us = self._inspector.now_us()
        for name, look in looks.items():
            self.usage.accounts[name].read(now_us, look.held.ledger.opened)
        return looks

    def again(self, looks: Mapping[str, AccountComparison]) -> dict[str, AccountComparison]:
        """The same counters, judged with the events that have come since."""
        return {name: self._judged(name, look.held, late=True) for name, look in looks.items()}

    def _judged(self, name: str, held: OpenReservation, *, late: bool = False) -> AccountComparison:
        verdicts = (self._verdict(row, held, late) for row in self.usage.accounts[name])
        return AccountComparison(held, tuple(one for one in verdicts if one is not None))

    def _verdict(self, row: Row, held: OpenReservation, late: bool) -> Verdict | None:
        if row.field in held.problems or keys.GRANTS in held.problems:
            return unreadable(row)
        debts = self._debts.get((row.account, row.field), {})
        owes = sum(units for since, units in debts.items() if row.start <= since < row.end)
        return judge(row, held.ledger, owes, late=late)


def _counters(held: OpenReservation) -> Iterator[CounterKey]:
    """The quotas of an account, those that cannot be read too."""
    since = {field: state.since_us for field, state in held.ledger.states.items()}
    for field in sorted({*since, *held.problems}):
        found = keys.read_field(field)
        if found is None:
            continue
        kind, limit_id, whose = found
        if kind == QUOTA:
            yield CounterKey(field, limit_id, whose, since.get(field, 0))
        elif kind == TEAM and whose:  # what keys without a team use, no event tells apart
            yield CounterKey(field, limit_id, None, since.get(field, 0), whose)


def reconcile(looker: Reconciler, wait: Callable[[], None]) -> dict[str, AccountComparison]:
    """Every account as it was judged in the end. A difference is looked at again after `wait`:
    the events of calls in flight come when these are over."""
    names = looker.begin()
    found: dict[str, AccountComparison] = {}
    for turn in range(LOOKS):
        looks = looker.read_counters(names)
        found |= looks
        doubtful = {name: look for name, look in looks.items() if look.left}
        if not doubtful or turn == LOOKS - 1:
            break
        wait()
        looker.read_events()
        again = looker.again(doubtful)
        found |= {name: look for name, look in again.items() if not look.left}
        names = [name for name, look in again.items() if look.left]
    return found
