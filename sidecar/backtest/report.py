"""The result of a backtest for one account, and for all accounts together."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.backtest.counters import CounterName, QuotaCounter
from sidecar.core.events.read import RecordedRequest, Units
from sidecar.core.kinds import MICRO, Limit
from sidecar.core.reasons import Reason
from sidecar.core.text import instant

# Ranges of the wait after which a refused request would fit: (longest wait in µs, name).
WAIT_RANGES: Final = ((MICRO, "1s"), (5 * MICRO, "5s"), (60 * MICRO, "60s"))
LATER, NEVER = "later", "never"
SKIP_REASONS: Final = {
    "plan": "their plan is not in the new file",
    "route": "their route is not in the new file",
    "feature": "their plan lacks a feature that the route needs",
}


@dataclass(slots=True)
class RefusedCount:
    """Requests that one limit refused. `waits`: their number in each range of `WAIT_RANGES`."""

    requests: int = 0
    longest_us: int = 0
    waits: dict[str, int] = field(default_factory=dict)

    def add(self, wait_us: int | None) -> None:
        """Add one request; `wait_us` None: it never fits."""
        self.requests += 1
        within = NEVER
        if wait_us is not None:
            self.longest_us = max(self.longest_us, wait_us)
            within = next((name for longest, name in WAIT_RANGES if wait_us <= longest), LATER)
        self.waits[within] = self.waits.get(within, 0) + 1


@dataclass(slots=True)
class WaitedCount:
    """Requests that one limit would let wait until they fit."""

    requests: int = 0
    longest_us: int = 0
    total_us: int = 0

    def add(self, requests: int, longest_us: int, total_us: int) -> None:
        """Add requests, with the longest wait and the sum of their waits."""
        self.requests += requests
        self.longest_us = max(self.longest_us, longest_us)
        self.total_us += total_us


@dataclass(slots=True)
class QuotaResult:
    """The history of a quota; for a quota per key, that of the key which used it up first."""

    units: int
    peak: int
    ran_out_us: int | None
    key: str | None

    @property
    def urgency(self) -> tuple[bool, int, int]:
        """Sort key: the quota that is used up first, then the one with the highest peak."""
        return self.ran_out_us is None, self.ran_out_us or 0, -self.peak


@dataclass(slots=True)
class UnitChange:
    """Units in the events, and units that the replay charged."""

    recorded: int = 0
    replayed: int = 0


@dataclass(slots=True)
class AccountReport:
    """The result for one account.

    `plans`: requests by recorded plan. `refused`: by limit and reason. `waited` and `shadowed`: by
    limit. `skipped`: requests that cannot be replayed, by key of `SKIP_REASONS` and plan or route.
    """

    account: str
    requests: int = 0
    first_us: int = 0
    last_us: int = 0
    plans: dict[str, int] = field(default_factory=dict)
    refused: dict[tuple[str, str], RefusedCount] = field(default_factory=dict)
    waited: dict[str, WaitedCount] = field(default_factory=dict)
    skipped: dict[tuple[str, str], int] = field(default_factory=dict)
    shadowed: dict[str, int] = field(default_factory=dict)
    quotas: dict[str, QuotaResult] = field(default_factory=dict)
    units: dict[str, UnitChange] = field(default_factory=lambda: defaultdict(UnitChange))
    overage: dict[str, UnitChange] = field(default_factory=lambda: defaultdict(UnitChange))

    def add_recorded(self, event: RecordedRequest) -> None:
        """Add a request with its recorded units."""
        self.requests += 1
        self.first_us = self.first_us or event.time_us
        self.last_us = event.time_us
        self.plans[event.plan] = self.plans.get(event.plan, 0) + 1
        if event.billable:
            for meter, units in event.usage:
                self.units[meter].recorded += units
            for meter, units in event.overage:
                self.overage[meter].recorded += units

    def add_charged(self, costs: Units, overage: Mapping[str, int] | None) -> None:
        """Add the units of an allowed request."""
        for meter, units in costs:
            self.units[meter].replayed += units
        for meter, units in overage.items() if overage else ():
            self.overage[meter].replayed += units

    def add_refused(self, limit: Limit, reason: Reason, wait_us: int | None) -> None:
        """Add a request that this limit refused."""
        self.refused.setdefault((limit.id, str(reason)), RefusedCount()).add(wait_us)

    def add_waited(self, limit: Limit, wait_us: int) -> None:
        """Add a request that waited for this limit."""
        self.waited.setdefault(limit.id, WaitedCount()).add(1, wait_us, wait_us)

    def skip(self, reason: str, event: RecordedRequest) -> None:
        """Add a request that cannot be replayed; `reason` is a key of `SKIP_REASONS`."""
        name = reason, event.plan if reason == "plan" else event.route
        self.skipped[name] = self.skipped.get(name, 0) + 1

    def add_shadowed(self, limit: Limit) -> None:
        """Add a request that this limit in shadow would have refused."""
        self.shadowed[limit.id] = self.shadowed.get(limit.id, 0) + 1

    def add_quotas(self, counters: Mapping[CounterName, QuotaCounter]) -> None:
        """Add the quotas, after the last request."""
        for (limit, key), counter in counters.items():
            quota = QuotaResult(counter.units, counter.peak, counter.ran_out_us, key)
            known = self.quotas.get(limit)
            if known is None or quota.urgency < known.urgency:
                self.quotas[limit] = quota

    @property
    def refused_requests(self) -> int:
        """Requests refused by all limits together."""
        return sum(one.requests for one in self.refused.values())

    @property
    def skipped_requests(self) -> int:
        """Requests skipped for all reasons together."""
        return sum(self.skipped.values())

    @property
    def changed(self) -> bool:
        """Whether the replay differs from the recording."""
        changes = (*self.units.values(), *self.overage.values())
        return bool(self.refused or self.waited or self.skipped or self.shadowed) or any(
            one.recorded != one.replayed for one in changes
        )

    def as_json(self) -> dict[str, Any]:
        """Return the JSON members: instants in RFC 3339, durations in whole milliseconds."""
        return {
            "account": self.account,
            "plans": dict(sorted(self.plans.items())),
            "requests": self.requests,
            "first": instant(self.first_us),
            "last": instant(self.last_us),
            "refused": self.refused_requests,
            "refusals": [
                {
                    "limit": limit,
                    "reason": reason,
                    "requests": one.requests,
                    "longest_wait_ms": -(-one.longest_us // 1000),
                    "would_fit_within": one.waits,
                }
                for (limit, reason), one in sorted(self.refused.items())
            ],
            "waited": [
                {
                    "limit": limit,
                    "requests": one.requests,
                    "longest_wait_ms": -(-one.longest_us // 1000),
                    "mean_wait_ms": -(-one.total_us // one.requests // 1000),
                }
                for limit, one in sorted(self.waited.items())
            ],
            "not_replayed": [
                {
                    "reason": SKIP_REASONS[reason],
                    "plan" if reason == "plan" else "route": name,
                    "requests": requests,
                }
                for (reason, name), requests in sorted(self.skipped.items())
            ],
            "shadow": dict(sorted(self.shadowed.items())),
            "quotas": [
                {
                    "limit": limit,
                    "key": one.key,
                    "units": one.units,
                    "peak": one.peak,
                    "used_up_at": None if one.ran_out_us is None else instant(one.ran_out_us),
                }
                for limit, one in sorted(self.quotas.items())
            ],
            "units": _as_json(self.units),
            "overage": _as_json(self.overage),
        }


def total(reports: Iterable[AccountReport]) -> AccountReport:
    """Return the sum of all accounts, without their quotas."""
    whole = AccountReport("")
    for one in reports:
        whole.requests += one.requests
        whole.first_us = min(filter(None, (whole.first_us, one.first_us)), default=0)
        whole.last_us = max(whole.last_us, one.last_us)
        _add(whole.plans, one.plans)
        _add(whole.skipped, one.skipped)
        _add(whole.shadowed, one.shadowed)
        for name, refused in one.refused.items():
            all_refused = whole.refused.setdefault(name, RefusedCount())
            all_refused.requests += refused.requests
            all_refused.longest_us = max(all_refused.longest_us, refused.longest_us)
            _add(all_refused.waits, refused.waits)
        for limit, waited in one.waited.items():
            all_waited = whole.waited.setdefault(limit, WaitedCount())
            all_waited.add(waited.requests, waited.longest_us, waited.total_us)
        for sums, changes in ((whole.units, one.units), (whole.overage, one.overage)):
            for meter, change in changes.items():
                sums[meter].recorded += change.recorded
                sums[meter].replayed += change.replayed
    return whole


def _add(sums: dict[Any, int], counts: Mapping[Any, int]) -> None:
    for name, count in counts.items():
        sums[name] = sums.get(name, 0) + count


def _as_json(changes: Mapping[str, UnitChange]) -> dict[str, Any]:
    return {
        meter: {
            "recorded": one.recorded,
            "replayed": one.replayed,
            "difference": one.replayed - one.recorded,
        }
        for meter, one in sorted(changes.items())
    }
