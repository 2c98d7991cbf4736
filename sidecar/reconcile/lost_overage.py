"""The overage that events have reported of units that a counter has lost."""

from sidecar.core.counting import limits
from sidecar.core.counting.corrections import NOT_KNOWN
from sidecar.core.counting.counters import EMPTY
from sidecar.core.counting.reservations import AccountState
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account
from sidecar.core.periods import window_at
from sidecar.reconcile.differences import CounterComparison
from sidecar.reconcile.period_usage import PeriodUsage


def lost_overage(
    comparison: CounterComparison, units: int, account: Account, stored: AccountState, now_us: int
) -> int:
    """Return the overage that events have reported of the lost `units`; NOT_KNOWN if unknown.

    It is what all events of the period have reported, less what the counter knows of. At least 0: a
    counter knows more if a request in flight has no event yet.

    Units that were carried over are lost with the counter. As many as may have been carried over
    count as reported, so that no event bills them.
    """
    usage, limit = comparison.usage, comparison.usage.limit
    if not isinstance(limit, QuotaLimit):
        return 0
    if usage.overage is None:
        return NOT_KNOWN
    state = stored.states.get(usage.field, EMPTY)
    state, _ = limits.current(limit, state, window_at(limit, account, now_us), now_us)
    known = max(0, state.over - state.due)
    events = usage.overage - comparison.uncharged_overage
    reported = events + _of_open(usage, stored, state.since_us) - known
    carried = max(0, limit.rollover - state.carried)
    return max(0, reported, min(units, reported + carried))


def _of_open(usage: PeriodUsage, stored: AccountState, since_us: int) -> int:
    """Return the overage of open reservations that their events are going to report."""
    return sum(
        max(0, charge.reported)
        for name, reservation in stored.opened.items()
        if name not in usage.recorded
        for charge in reservation.charges
        if charge.kind == "quota" and charge.field == usage.field and charge.since_us == since_us
    )
