"""What a replay has to tell of one account, and of all."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.backtest.counters import Name, QuotaCounter
from sidecar.core.events.read import RecordedRequest, Units
from sidecar.core.model import MICRO, Limit
from sidecar.core.reasons import Reason
from sidecar.core.text import instant

# How long a refused call would have had to wait: (at most µs, what it is called).
WAITS: Final = ((MICRO, "1s"), (5 * MICRO, "5s"), (60 * MICRO, "60s"))
LATER, NEVER = "later", "never"
PUT_ASIDE: Final = {
    "plan": "their plan is not in the new file",
    "route": "their route is not in the new file",
    "feature": "their plan lacks a feature that the route needs",
}


@dataclass(slots=True)
class RefusedCount:
    """Calls that one limit refused. `waits`: how many would have fitted within what span."""

    calls: int = 0
    longest_us: int = 0
    waits: dict[str, int] = field(default_factory=dict)

    def add(self, wait_us: int | None) -> None:
        """One more; None: it would never have fitted."""
        self.calls += 1
        within = NEVER
        if wait_us is not None:
            self.longest_us = max(self.longest_us, wait_us)
            within = next((name for most, name in WAITS if wait_us <= most), LATER)
        self.waits[within] = self.waits.get(within, 0) + 1


@dataclass(slots=True)
class WaitedCount:
    """Calls that would have been held for one limit until they fit."""

    calls: int = 0
    longest_us: int = 0
    all_us: int = 0

    def add(self, calls: int, longest_us: int, all_us: int) -> None:
        """So many more, with the longest of their waits, and their sum."""
        self.calls += calls
        self.longest_us = max(self.longest_us, longest_us)
        self.all_us += all_us


@dataclass(slots=True)
class Quota:
    """What became of a quota; of one per key, of the key for which it ran out first."""

    units: int
    peak: int
    ran_out_us: int | None
    key: str | None

    @property
    def urgency(self) -> tuple[bool, int, int]:
        """The first to run out comes first, then the fullest."""
        return self.ran_out_us is None, self.ran_out_us or 0, -self.peak


@dataclass(slots=True)
class Difference:
    """Units as they were recorded, and as they would have been charged."""

    recorded: int = 0
    replayed: int = 0


@dataclass(slots=True)
class AccountReport:
    """One account. `plans`: on which its calls were recorded; `aside`: calls that could not be
    replayed, by why and what it is about (a plan or a route)."""

    account: str
    calls: int = 0
    first_us: int = 0
    last_us: int = 0
    plans: dict[str, int] = field(default_factory=dict)
    refused: dict[tuple[str, str], RefusedCount] = field(default_factory=dict)
    held: dict[str, WaitedCount] = field(default_factory=dict)
    aside: dict[tuple[str, str], int] = field(default_factory=dict)
    shadowed: dict[str, int] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)
    units: dict[str, Difference] = field(default_factory=lambda: defaultdict(Difference))
    overage: dict[str, Difference] = field(default_factory=lambda: defaultdict(Difference))

    def take(self, event: RecordedRequest) -> None:
        """A call as it was recorded."""
        self.calls += 1
        self.first_us = self.first_us or event.time_us
        self.last_us = event.time_us
        self.plans[event.plan] = self.plans.get(event.plan, 0) + 1
        if event.billable:
            for meter, units in event.usage:
                self.units[meter].recorded += units
            for meter, units in event.overage:
                self.overage[meter].recorded += units

    def charge(self, costs: Units, overage: Mapping[str, int] | None) -> None:
        """A call that was allowed."""
        for meter, units in costs:
            self.units[meter].replayed += units
        for meter, units in overage.items() if overage else ():
            self.overage[meter].replayed += units

    def refuse(self, limit: Limit, reason: Reason, wait_us: int | None) -> None:
        """A call that was refused for this limit."""
        self.refused.setdefault((limit.id, str(reason)), RefusedCount()).add(wait_us)

    def hold(self, limit: Limit, wait_us: int) -> None:
        """A call that was held for this limit, and then allowed."""
        self.held.setdefault(limit.id, WaitedCount()).add(1, wait_us, wait_us)

    def put_aside(self, why: str, event: RecordedRequest) -> None:
        """A call that cannot be replayed; `why` is one of PUT_ASIDE."""
        about = why, event.plan if why == "plan" else event.route
        self.aside[about] = self.aside.get(about, 0) + 1

    def shadow(self, limit: Limit) -> None:
        """A call that a limit in shadow would have refused."""
        self.shadowed[limit.id] = self.shadowed.get(limit.id, 0) + 1

    def quotas_of(self, counters: Mapping[Name, QuotaCounter]) -> None:
        """The quotas at the end."""
        for (limit, key), counter in counters.items():
            quota = Quota(counter.units, counter.peak, counter.ran_out_us, key)
            known = self.quotas.get(limit)
            if known is None or quota.urgency < known.urgency:
                self.quotas[limit] = quota

    @property
    def refused_calls(self) -> int:
        """Of all limits."""
        return sum(one.calls for one in self.refused.values())

    @property
    def put_aside_calls(self) -> int:
        """Of all reasons."""
        return sum(self.aside.values())

    @property
    def changed(self) -> bool:
        """Whether anything is different from what was recorded."""
        apart = (*self.units.values(), *self.overage.values())
        return bool(self.refused or self.held or self.aside or self.shadowed) or any(
            one.recorded != one.replayed for one in apart
        )

    def as_json(self) -> dict[str, Any]:
        """For programs: instants are RFC 3339, spans whole milliseconds."""
        return {
            "account": self.account,
            "plans": dict(sorted(self.plans.items())),
            "calls": self.calls,
            "first": instant(self.first_us),
            "last": instant(self.last_us),
            "refused": self.refused_calls,
            "refusals": [
                {
                    "limit": limit,
                    "reason": reason,
                    "calls": one.calls,
                    "longest_wait_ms": -(-one.longest_us // 1000),
                    "would_have_fitted_within": one.waits,
                }
                for (limit, reason), one in sorted(self.refused.items())
            ],
            "waited": [
                {
                    "limit": limit,
                    "calls": one.calls,
                    "longest_wait_ms": -(-one.longest_us // 1000),
                    "mean_wait_ms": -(-one.all_us // one.calls // 1000),
                }
                for limit, one in sorted(self.held.items())
            ],
            "not_replayed": [
                {"why": PUT_ASIDE[why], why_key(why): about, "calls": calls}
                for (why, about), calls in sorted(self.aside.items())
            ],
            "shadow": dict(sorted(self.shadowed.items())),
            "quotas": [
                {
                    "limit": limit,
                    "key": one.key,
                    "units": one.units,
                    "most_used": one.peak,
                    "runs_out": None if one.ran_out_us is None else instant(one.ran_out_us),
                }
                for limit, one in sorted(self.quotas.items())
            ],
            "units": _as_json(self.units),
            "overage": _as_json(self.overage),
        }


def why_key(why: str) -> str:
    """What a call that is not replayed is about."""
    return "plan" if why == "plan" else "route"


def total(reports: Iterable[AccountReport]) -> AccountReport:
    """All accounts as if they were one, without their quotas."""
    whole = AccountReport("")
    for one in reports:
        whole.calls += one.calls
        whole.first_us = min(filter(None, (whole.first_us, one.first_us)), default=0)
        whole.last_us = max(whole.last_us, one.last_us)
        _add(whole.plans, one.plans)
        _add(whole.aside, one.aside)
        _add(whole.shadowed, one.shadowed)
        for name, refused in one.refused.items():
            sum_of = whole.refused.setdefault(name, RefusedCount())
            sum_of.calls += refused.calls
            sum_of.longest_us = max(sum_of.longest_us, refused.longest_us)
            _add(sum_of.waits, refused.waits)
        for limit, held in one.held.items():
            waited = whole.held.setdefault(limit, WaitedCount())
            waited.add(held.calls, held.longest_us, held.all_us)
        for mine, theirs in ((whole.units, one.units), (whole.overage, one.overage)):
            for meter, apart in theirs.items():
                mine[meter].recorded += apart.recorded
                mine[meter].replayed += apart.replayed
    return whole


def _add(mine: dict[Any, int], theirs: Mapping[Any, int]) -> None:
    for name, count in theirs.items():
        mine[name] = mine.get(name, 0) + count


def _as_json(differences: Mapping[str, Difference]) -> dict[str, Any]:
    return {
        meter: {
            "recorded": one.recorded,
            "replayed": one.replayed,
            "difference": one.replayed - one.recorded,
        }
        for meter, one in sorted(differences.items())
    }
