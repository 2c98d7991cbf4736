"""The guarantees during a fault, as pure functions of the evidence.

`docs/explanation/outages.md` states the bounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.faults.accounts import BURST, CLIENTS, QUOTA, RATE, SLOTS_PER_ACCOUNT, Client
from loadtests.faults.clients import Measurements
from loadtests.faults.environment import SIDECARS
from loadtests.faults.faults import Fault

SLOWER: Final = 0.1  # seconds, by which the p99 of critical requests may rise
STALL_REQUESTS: Final = 5  # requests of one program while the system does not run a process
FAIL: Final = frozenset({500, 502, 504})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed of one fault.

    `lost_at`: requests of the quota's account that had reached the API when the fault began.
    `reconciliation` and `rebuilt`: reports of `sidecar reconcile` before and after a rebuild.
    """

    fault: Fault
    measurements: Measurements
    arrived: Mapping[str, Sequence[float]]
    most: Mapping[str, int]
    lost_at: int
    cuts: int
    late_reservations: int
    at_rest: bool
    reconciliation: Mapping[str, Any]
    rebuilt: Mapping[str, Any] | None
    error_lines: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    `wrong`: the violations, as sentences.
    """

    name: str
    requests: int
    over_quota: int
    over_rate: int
    slots: int
    refused: int
    failed: int
    normal_ms: float
    fault_ms: float
    late_reservations: int
    differences: tuple[int, int]
    wrong: tuple[str, ...]


def _client(plan: str) -> Client:
    return next(one for one in CLIENTS if one.plan == plan)


COUNTED: Final = _client("counted")
PACED: Final = _client("paced")
CONCURRENT: Final = _client("concurrent")
USED_UP: Final = _client("used-up")
# Units of a meter that one request costs, and those of one account in flight when a connection
# breaks.
MOST_UNITS: Final = 25
MOST_IN_FLIGHT: Final = max(one.programs for one in CLIENTS) * MOST_UNITS


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of durations in seconds, in milliseconds; 0 without values."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def rate_excess(rate: float, burst: int, arrived: Sequence[float]) -> int:
    """By how many requests the busiest span exceeds what a bucket allows in it."""
    worst = level = 0.0
    last = arrived[0] if arrived else 0.0
    for at in arrived:
        level = max(0.0, level - (at - last) * rate) + 1
        last = at
        worst = max(worst, level)
    return int(worst) - burst


def differences(reconciliation: Mapping[str, Any]) -> list[int]:
    """Counter minus events, for each counter."""
    return [one["difference"] for one in reconciliation["counters"]]


def row_of(evidence: Evidence, *, timed: bool = True) -> Row:
    """The row of a fault, with its verdict.

    Without `timed`, latency and throughput are not judged: the machine may be too busy.
    """
    statuses = evidence.measurements.statuses.values()
    refused = sum(
        count
        for counts in statuses
        for (account, status), count in counts.items()
        if account == USED_UP.account and status != 200
    )
    failed = sum(
        count for counts in statuses for (_, status), count in counts.items() if status in FAIL
    )
    apart = differences(evidence.reconciliation) or [0]
    row = Row(
        name=evidence.fault.name,
        requests=evidence.measurements.requests,
        over_quota=len(evidence.arrived[COUNTED.account]) - QUOTA,
        over_rate=rate_excess(RATE, BURST, evidence.arrived[PACED.account]),
        slots=evidence.most[CONCURRENT.account],
        refused=refused,
        failed=failed,
        normal_ms=percentile(evidence.measurements.critical["before"], 99),
        fault_ms=percentile(evidence.measurements.critical["during"], 99),
        late_reservations=evidence.late_reservations,
        differences=(min(apart), max(apart)),
        wrong=(),
    )
    uncounted = 1 if timed else STALL_REQUESTS
    wrong = [
        *_limits_exceeded(row, evidence, uncounted),
        *_bad_answers(row, evidence),
        *_miscounts(row, evidence),
    ]
    if timed:
        wrong += _slow_requests(row)
    return Row(**{name: getattr(row, name) for name in Row.__slots__ if name != "wrong"},
               wrong=tuple(wrong))  # fmt: skip


def _limits_exceeded(row: Row, evidence: Evidence, uncounted: int) -> list[str]:
    """Requests allowed beyond the bounds of the limits.

    A sidecar has not counted the last request of each program of the other sidecar, or
    `STALL_REQUESTS` of them while the system does not run it.
    """
    wrong = []
    forgets = evidence.fault.forgets
    most = COUNTED.programs * uncounted + (evidence.lost_at if forgets else 0)
    if row.over_quota > most:
        wrong.append(f"{row.over_quota:+} requests beyond the quota (bound: {most})")
    # As many requests may reach the API late.
    most = PACED.programs * (1 + uncounted) + (BURST if forgets else 0)
    if row.over_rate > most:
        wrong.append(f"{row.over_rate} requests beyond the rate (bound: {most})")
    most = SLOTS_PER_ACCOUNT + SLOTS_PER_ACCOUNT - SLOTS_PER_ACCOUNT // SIDECARS
    most += SLOTS_PER_ACCOUNT if forgets else 0
    if row.slots > most:
        wrong.append(f"{row.slots} requests in flight (bound: {most})")
    return wrong


def _bad_answers(row: Row, evidence: Evidence) -> list[str]:
    """Answers that clients must not get."""
    wrong = [f"{times} × {what}" for what, times in evidence.measurements.broken.items()]
    if row.refused:
        wrong.append(f"{row.refused} critical requests were not answered by the API")
    if row.failed:
        wrong.append(f"{row.failed} answers have status 500, 502 or 504")
    wrong += [f"log: {line[:200]}" for line in evidence.error_lines]
    return wrong


def _slow_requests(row: Row) -> list[str]:
    wrong = []
    if row.over_quota < 0:
        wrong.append(
            f"{-row.over_quota} units of the quota were not used: the run is weak evidence"
        )
    if row.fault_ms - row.normal_ms > 1000 * SLOWER:
        wrong.append(f"critical requests took {row.fault_ms:.0f} ms, {row.normal_ms:.0f} ms before")
    return wrong


def _miscounts(row: Row, evidence: Evidence) -> list[str]:
    """Differences between counters and events."""
    wrong = [] if evidence.at_rest else ["units were still uncharged after a minute"]
    low, high = row.differences
    in_flight = evidence.cuts * MOST_IN_FLIGHT if evidence.fault.breaks else 0
    if high > in_flight:
        wrong.append(f"a counter is {high} above its events")
    if low < 0 and not evidence.fault.forgets:
        wrong.append(f"a counter is {-low} below its events")
    if evidence.rebuilt is not None and min(differences(evidence.rebuilt) or [0]) < 0:
        wrong.append("a rebuild did not restore what was lost")
    for one in evidence.reconciliation["counters"]:
        forwarded = len(evidence.arrived[one["account"]])
        if one["limit"] == "monthly" and one["events"] != forwarded:
            wrong.append(
                f"{one['account']}: {one['events']} events of {forwarded} forwarded requests"
            )
    return wrong
