"""What a run promises, as pure functions of what was seen. docs/explanation/outages.md states the
bounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.faults.accounts import BURST, CALLERS, QUOTA, RATE, SLOTS_OF_ONE, Caller
from loadtests.faults.calls import Seen
from loadtests.faults.faults import Fault
from loadtests.faults.house import SIDECARS

SLOWER: Final = 0.1  # seconds: so much slower the slowest hundredth of critical calls may be
BUSY: Final = 5  # calls of one program, in a time in which a process does not run
FAIL: Final = frozenset({500, 502, 504})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of one fault. `lost_at`: calls of the quota's account that had reached the API
    when Redis was harmed; `books`: what reconcile found, before and after a rebuild."""

    fault: Fault
    seen: Seen
    arrived: Mapping[str, Sequence[float]]
    most: Mapping[str, int]
    lost_at: int
    cuts: int
    given_back: int
    rested: bool
    books: Mapping[str, Any]
    rebuilt: Mapping[str, Any] | None
    complaints: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `wrong`: what breaks a promise, in sentences."""

    name: str
    calls: int
    over_quota: int
    over_rate: int
    slots: int
    refused: int
    failed: int
    normal_ms: float
    fault_ms: float
    given_back: int
    apart: tuple[int, int]
    wrong: tuple[str, ...]


def _caller(plan: str) -> Caller:
    return next(one for one in CALLERS if one.plan == plan)


COUNTED: Final = _caller("counted")
PACED: Final = _caller("paced")
NARROW: Final = _caller("narrow")
SPENT: Final = _caller("spent")
# Units of any meter that one call costs, and that are on their way at once when a connection
# breaks, of one account.
MOST_UNITS: Final = 25
ON_THEIR_WAY: Final = max(one.programs for one in CALLERS) * MOST_UNITS


def percentile(values: Sequence[float], percent: int) -> float:
    """Of seconds, the one that so many percent do not exceed; in milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def beyond(rate: float, burst: int, arrived: Sequence[float]) -> int:
    """By how many calls the busiest stretch of time exceeds what a bucket lets pass in it."""
    worst = level = 0.0
    last = arrived[0] if arrived else 0.0
    for at in arrived:
        level = max(0.0, level - (at - last) * rate) + 1
        last = at
        worst = max(worst, level)
    return int(worst) - burst


def differences(books: Mapping[str, Any]) -> list[int]:
    """Counter minus events, of each counter."""
    return [one["difference"] for one in books["counters"]]


def row_of(seen: Evidence, *, timed: bool = True) -> Row:
    """What was seen, in numbers, and judged. Not `timed`: on a machine that may be so busy that how
    long calls took, and how many there were, says nothing."""
    statuses = seen.seen.statuses.values()
    refused = sum(
        count
        for counts in statuses
        for (account, status), count in counts.items()
        if account == SPENT.account and status != 200
    )
    failed = sum(
        count for counts in statuses for (_, status), count in counts.items() if status in FAIL
    )
    apart = differences(seen.books) or [0]
    row = Row(
        name=seen.fault.name,
        calls=seen.seen.calls,
        over_quota=len(seen.arrived[COUNTED.account]) - QUOTA,
        over_rate=beyond(RATE, BURST, seen.arrived[PACED.account]),
        slots=seen.most[NARROW.account],
        refused=refused,
        failed=failed,
        normal_ms=percentile(seen.seen.critical["before"], 99),
        fault_ms=percentile(seen.seen.critical["during"], 99),
        given_back=seen.given_back,
        apart=(min(apart), max(apart)),
        wrong=(),
    )
    unseen = 1 if timed else BUSY
    wrong = [*_admitted(row, seen, unseen), *_served(row, seen), *_booked(row, seen)]
    if timed:
        wrong += _timed(row)
    return Row(**{name: getattr(row, name) for name in Row.__slots__ if name != "wrong"},
               wrong=tuple(wrong))  # fmt: skip


def _admitted(row: Row, seen: Evidence, unseen: int) -> list[str]:
    """What passed beyond the limits' bounds. One sidecar has not seen the last call of each of the
    other's programs, or so many of them if it does not run all the time."""
    wrong = []
    forgets = seen.fault.forgets
    may = COUNTED.programs * unseen + (seen.lost_at if forgets else 0)
    if row.over_quota > may:
        wrong.append(f"{row.over_quota:+} calls beyond the quota; up to {may} may be")
    # And as many may come late to the API.
    may = PACED.programs * (1 + unseen) + (BURST if forgets else 0)
    if row.over_rate > may:
        wrong.append(f"{row.over_rate} calls beyond the rate; up to {may} may be")
    may = SLOTS_OF_ONE + SLOTS_OF_ONE - SLOTS_OF_ONE // SIDECARS
    may += SLOTS_OF_ONE if forgets else 0
    if row.slots > may:
        wrong.append(f"{row.slots} calls at once; up to {may} may be")
    return wrong


def _served(row: Row, seen: Evidence) -> list[str]:
    """What callers got and may not get."""
    wrong = [f"{times} × {what}" for what, times in seen.seen.broken.items()]
    if row.refused:
        wrong.append(f"{row.refused} critical calls were not answered by the API")
    if row.failed:
        wrong.append(f"{row.failed} answers say that something failed")
    wrong += [f"the log says: {line[:200]}" for line in seen.complaints]
    return wrong


def _timed(row: Row) -> list[str]:
    wrong = []
    if row.over_quota < 0:
        wrong.append(f"{-row.over_quota} units of the quota were not used: the run proves little")
    if row.fault_ms - row.normal_ms > 1000 * SLOWER:
        wrong.append(f"critical calls took {row.fault_ms:.0f} ms, and {row.normal_ms:.0f} before")
    return wrong


def _booked(row: Row, seen: Evidence) -> list[str]:
    """Counters and events that do not agree."""
    wrong = [] if seen.rested else ["something was owed to Redis a minute later"]
    low, high = row.apart
    on_the_way = seen.cuts * ON_THEIR_WAY if seen.fault.breaks else 0
    if high > on_the_way:
        wrong.append(f"a counter is {high} above its events")
    if low < 0 and not seen.fault.forgets:
        wrong.append(f"a counter is {-low} below its events")
    if seen.rebuilt is not None and min(differences(seen.rebuilt) or [0]) < 0:
        wrong.append("a rebuild did not restore what was lost")
    for one in seen.books["counters"]:
        came = len(seen.arrived[one["account"]])
        if one["limit"] == "monthly" and one["events"] != came:
            wrong.append(f"{one['account']}: {one['events']} events of {came} forwarded calls")
    return wrong
