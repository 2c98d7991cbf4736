"""Raises counters to the sum of their events.

The result is never too high: units that Redis may have counted elsewhere, or may charge later, are
not added. So on a busy system, requests in flight at that moment may be left out, and a later
rebuild adds them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sidecar.reconcile.compare import AccountComparison, Reconciler, reconcile
from sidecar.reconcile.differences import CauseKind, CounterComparison
from sidecar.reconcile.lost_overage import lost_overage
from sidecar.stores.inspector import Inspector
from sidecar.stores.rebuild import Change

ATTEMPTS: Final = 3


class Correction(NamedTuple):
    """A change of a counter by `units`, done or planned."""

    comparison: CounterComparison
    units: int


@dataclass(slots=True)
class RebuildReport:
    """The corrections, done or planned.

    `busy`: accounts that changed during each attempt. `unknown`: accounts that stay as they are,
    because their time zone is unknown.
    """

    corrections: list[Correction] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def rebuild(
    reconciler: Reconciler,
    inspector: Inspector,
    *,
    apply: bool,
    lower: bool,
    wait: Callable[[], None],
) -> RebuildReport:
    """Compare, and with `apply` raise counters that lost units, until none is left.

    With `lower`, also lower counters that are still too high after `wait`.
    """
    report = RebuildReport()
    if lower:
        comparisons = reconcile(reconciler, wait)
    else:
        comparisons = reconciler.read_counters(reconciler.start())
    for _ in range(ATTEMPTS):
        planned = dict(_planned(reconciler, comparisons, report, lower))
        if not apply:
            report.corrections += [one for corrections in planned.values() for one in corrections]
            break
        report.busy = []
        for name, corrections in planned.items():
            if _apply(reconciler, inspector, name, comparisons[name], corrections):
                report.corrections += corrections
            else:
                report.busy.append(name)
        if not planned:
            break
        reconciler.read_events()
        comparisons, lower = reconciler.read_counters(sorted(planned)), False
    return report


def _planned(
    reconciler: Reconciler,
    comparisons: Mapping[str, AccountComparison],
    report: RebuildReport,
    lower: bool,
) -> Iterator[tuple[str, list[Correction]]]:
    for name, account in sorted(comparisons.items()):
        corrections = [
            correction
            for counter in account.counters
            for correction in _corrections(reconciler, counter, lower)
        ]
        if not corrections:
            continue
        if reconciler.usage.accounts[name].resolved.known:
            yield name, corrections
        elif name not in report.unknown:
            report.unknown.append(name)


def _corrections(
    reconciler: Reconciler, counter: CounterComparison, lower: bool
) -> Iterator[Correction]:
    """Yield the correction of a counter in the current period; past periods are closed."""
    units = -counter.units_of(CauseKind.LOST)
    if lower:
        units -= counter.units_of(CauseKind.EVENTS_MISSING)
    if units and counter.usage.start <= reconciler.now_us < counter.usage.end:
        yield Correction(counter, units)


def _apply(
    reconciler: Reconciler,
    inspector: Inspector,
    name: str,
    comparison: AccountComparison,
    corrections: list[Correction],
) -> bool:
    """Change the counters in one step. Returns False if the account has changed since."""
    account = reconciler.usage.accounts[name].resolved.account
    changes, now_us = [], reconciler.now_us
    for counter, units in corrections:
        usage = counter.usage
        reported = lost_overage(counter, units, account, comparison.stored.state, now_us)
        read = counter.counter, usage.start, reported
        changes.append(Change(usage.limit, usage.key, units, *read))
    return inspector.rebuild(account, changes, comparison.stored.rebuilt, reconciler.now_us).done
