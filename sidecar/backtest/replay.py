"""Replay of one account's recorded requests under another plan file, in virtual time. Pure.

It decides as `core/counting/account.py` and `core/decision.py` would, in a fraction of their time;
a property test compares both. A request keeps its slots for its recorded latency. A request that
waits (`max_wait`) is charged when it arrives and starts later. A refused request has no
consequences, because the client's retries cannot be known.
"""

from collections.abc import Callable, Sequence
from datetime import date
from heapq import heappop, heappush
from typing import Final, NamedTuple

from sidecar.backtest.counters import (
    ENFORCED,
    FORCED,
    SHADOW,
    AccountCounters,
    BucketLevel,
    ClaimSet,
    QuotaLevel,
    QuotaRow,
    drained,
    has_free_slots,
    levels,
)
from sidecar.backtest.refusal import (
    ReplayedRefusal,
    first_refusal,
    is_short,
    leaves_guarantees,
    period_of,
    wait_us,
)
from sidecar.backtest.report import AccountReport
from sidecar.backtest.teams import count
from sidecar.core.counting import limits
from sidecar.core.counting.counters import EMPTY, Change, State, changed_suspended, of_one_meter
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.teams import TeamEntitlements
from sidecar.core.events.read import RecordedRequest, Units
from sidecar.core.kinds import UNBOUNDED, QuotaLimit
from sidecar.core.model import Account, Entitlement, Key, PlanBook
from sidecar.core.periods import Window
from sidecar.core.settlement import Outcome, OutcomeReason, refunded

MAX_CACHED: Final = 10_000  # claim sets of one account
MILLI_US: Final = 1_000
NOTHING_SENT: Final = 499  # the status of a request whose client left before the response began

WindowOf = Callable[[str, str, date | None, int], Window]


class InFlight(NamedTuple):
    """A request in flight; sorts by its end.

    `starts`: of the periods of each quota in which it was charged. `counted`: whether each rate
    was charged. `refunded`: whether its cost is returned when it ends.
    """

    end_us: int
    number: int
    claims: ClaimSet
    refunded: bool
    starts: tuple[tuple[int, ...], ...]
    counted: tuple[bool, ...]


class Replay:
    """Replay of one account: `add` its requests in order of time, then `finish`.

    `account` comes from the new plan file. With `follow`, the plan of each request is the one in
    its event instead. `windows` returns the period of an instant.
    """

    def __init__(
        self, book: PlanBook, account: Account, windows: WindowOf, *, follow: bool = False
    ) -> None:
        self.counters = AccountCounters()
        self.report = AccountReport(account.id)
        self._book = book
        self._account = account
        self._windows = windows
        self._follow = follow
        self._claim_sets: dict[tuple[str, str, str, str, Units], ClaimSet | str] = {}
        self._of_team = TeamEntitlements()
        self._in_flight: list[InFlight] = []
        self._number = 0

    def add(self, event: RecordedRequest) -> ReplayedRefusal | None:
        """Charge, refuse or skip the next request, and report it. Returns the refusal, if any."""
        at, report = event.time_us, self.report
        report.add_recorded(event)
        kind = event.key, event.team, event.plan, event.route, event.usage
        claims = self._claim_sets.get(kind)
        if claims is None:
            claims = self._claim_sets[kind] = self._claim_set(event)
        if isinstance(claims, str):
            report.skip(claims, event)
            return None
        if self._in_flight:
            self.pass_time(at)
        buckets = levels(claims.rates, at)
        quotas = None if buckets is None else self._quota_levels(claims.quotas, at)
        full = bool(claims.slots) and not has_free_slots(claims.slots)
        if quotas is not None and claims.shares and not leaves_guarantees(claims, quotas, at):
            full = True
        waited_us = 0
        if buckets is None or quotas is None or full:
            quotas = [self._quota_level(row, at) for row in claims.quotas]
            refusal = first_refusal(claims, quotas, at)
            wait = wait_us(claims, quotas, at) if claims.waits else None
            buckets = None if wait is None else levels(claims.rates, at, waits=True)
            if buckets is None or wait is None:
                report.add_refused(refusal.limit, refusal.reason, refusal.wait_us)
                return refusal
            report.add_waited(refusal.limit, wait)
            waited_us = wait
        self._charge(claims, event, buckets, quotas, waited_us)
        return None

    def pass_time(self, at: int) -> None:
        """End the requests in flight that are over at the instant `at` (µs)."""
        while self._in_flight and self._in_flight[0].end_us <= at:
            self._end(heappop(self._in_flight))

    def finish(self) -> AccountReport:
        """Complete the report after the last request, and return it."""
        self.report.add_quotas(self.counters.quotas)
        return self.report

    def _claim_set(self, event: RecordedRequest) -> ClaimSet | str:
        """Return the claims of such a request in the new file, or a key of `SKIP_REASONS`."""
        if len(self._claim_sets) >= MAX_CACHED:
            self._claim_sets.clear()
        plan = event.plan if self._follow else self._account.plan
        if plan not in self._book.plans:
            return "plan"
        entitlement = self._book.entitlements.get((plan, event.route))
        if entitlement is None:
            return "route"
        if entitlement.missing:
            return "feature"
        if self._account.teams:
            key = Key(event.key, self._account, event.team)
            entitlement = self._of_team.of(entitlement, key)
        return self.counters.claims(entitlement, event.key, event.usage)

    def _quota_levels(self, quotas: Sequence[QuotaRow], at: int) -> list[QuotaLevel] | None:
        """Return the levels of the quotas at the instant, or None if the request does not fit."""
        levels = []
        for row in quotas:
            level = self._quota_level(row, at)
            if row.mode == ENFORCED and level[0] + row.cost > row.cap + level[1]:
                return None
            levels.append(level)
        return levels

    def _quota_level(self, row: QuotaRow, at: int) -> QuotaLevel:
        counter, limit = row.counter, row.limit
        charged = counter.limit
        suspended = counter.suspended
        if at < counter.end and not suspended and charged and _is_same(charged, limit):
            carried = counter.carried if limit.rollover else 0
            return counter.used, carried, counter.since, counter.end, None
        account = self._account
        window = self._windows(limit.period, account.timezone, account.anchor, at)
        before = EMPTY
        if charged is not None:
            numbers = counter.used, counter.since, 0, counter.carried, counter.end
            ended = counter.settled, counter.over
            before = State(*numbers, counts_of(charged), *ended, suspended=suspended)
        now, end = limits.current(limit, before, window, at)
        return now.used, now.carried, now.since_us, end, now

    def _charge(
        self,
        claims: ClaimSet,
        event: RecordedRequest,
        buckets: list[BucketLevel],
        quotas: list[QuotaLevel],
        waited_us: int,
    ) -> None:
        overage: dict[str, int] | None = None
        refunded = claims.refunds and _is_refunded(claims.entitlement, event)
        for bucket, used, since, _ in buckets:
            bucket.used, bucket.since = used, since
        for row, level in zip(claims.quotas, quotas, strict=True):
            own = row.limit.units + level[1]
            used = min(level[0] + row.cost, UNBOUNDED)
            if not refunded:
                over = _settle(row, level, own)
                if over and not row.limit.shadow:
                    overage = overage or {}
                    overage[row.limit.meter] = max(over, overage.get(row.limit.meter, 0))
            _store(row, level, used, settled=0 if refunded else row.cost)
            if used >= own and row.counter.ran_out_us is None:
                row.counter.ran_out_us = event.time_us
        if claims.shadows:
            self._report_shadows(claims, buckets, quotas, event.time_us)
        for share in claims.shares:
            count(share, period_of(quotas[share.quota], event.time_us), share.cost)
        if not refunded:
            self.report.add_charged(claims.costs, overage)
        if refunded or claims.slots:
            end = event.time_us + waited_us + event.latency_ms * MILLI_US
            self._start(claims, end, refunded, buckets, quotas)

    def _report_shadows(
        self, claims: ClaimSet, buckets: list[BucketLevel], quotas: list[QuotaLevel], at: int
    ) -> None:
        """Report the limits in shadow that would have refused this request."""
        for rate, (_, _, _, counted) in zip(claims.rates, buckets, strict=True):
            if not counted and rate.mode == SHADOW:
                self.report.add_shadowed(rate.limit)
        short = {row.quota for row in claims.shares if is_short(claims, row, quotas, at)}
        for position, row in enumerate(claims.quotas):
            used, carried, _, _, _ = quotas[position]
            over = used + row.cost > row.cap + carried or position in short
            if over and row.limit.shadow and row.mode != FORCED:
                self.report.add_shadowed(row.limit)
        for slot in claims.slots:
            over = len(slot.taken.ends) >= slot.cap
            if over and slot.limit.shadow and slot.mode != FORCED:
                self.report.add_shadowed(slot.limit)

    def _start(
        self,
        claims: ClaimSet,
        end: int,
        refunded: bool,
        buckets: list[BucketLevel],
        quotas: list[QuotaLevel],
    ) -> None:
        self._number += 1
        for slot in claims.slots:
            heappush(slot.taken.ends, end)
        starts = tuple(map(_starts, quotas))
        counted = tuple(bucket[3] for bucket in buckets)
        request = InFlight(end, self._number, claims, refunded, starts, counted)
        heappush(self._in_flight, request)

    def _end(self, request: InFlight) -> None:
        """Free the slots of a request that is over, and return its cost if it is refunded."""
        at, refunded = request.end_us, request.refunded
        for rate, counted in zip(request.claims.rates, request.counted, strict=True):
            used, now = drained(rate, at)
            weight = rate.weight if refunded and counted else 0
            rate.bucket.used, rate.bucket.since = max(0, used - weight), now
        for row, starts in zip(request.claims.quotas, request.starts, strict=True):
            level = self._quota_level(row, at)
            cost = row.cost if refunded and level[2] in starts else 0
            _store(row, level, max(0, level[0] - cost), -row.cost if refunded else 0, starts)
        for share in request.claims.shares if refunded else ():
            level = self._quota_level(request.claims.quotas[share.quota], at)
            if level[2] in request.starts[share.quota]:
                count(share, period_of(level, at), -share.cost)
        for slot in request.claims.slots:
            heappop(slot.taken.ends)


def _settle(row: QuotaRow, level: QuotaLevel, own: int) -> int:
    """Count a request that is not refunded; its overage. Precedes `_store`. See `limits.count`."""
    counter, state = row.counter, level[4]
    settled, before = counter.settled, counter.over
    if state is not None:
        settled, before = state.settled, state.over
    over = max(0, row.cost - max(0, own - settled))
    counter.settled, counter.over = settled + row.cost - over, before + over
    return over


def _starts(level: QuotaLevel) -> tuple[int, ...]:
    """Return the starts of the periods that a charge is in."""
    state = level[4]
    if state is None or not state.suspended:
        return (level[2],)
    return tuple(one.since_us for one in of_one_meter(state))


def _store(
    row: QuotaRow,
    level: QuotaLevel,
    used: int,
    change: int | None = None,
    starts: tuple[int, ...] | None = None,
    *,
    settled: int = 0,
) -> None:
    """Store the counter.

    Suspended counters get the `change` (None: as the counter in use), if their period has one of
    the `starts` (None: any). `settled`: units of a request that is not refunded.
    """
    counter, state = row.counter, level[4]
    if state is not None:
        if not settled:
            counter.settled, counter.over = state.settled, state.over
        units = used - level[0] if change is None else change
        counter.suspended = changed_suspended(state, Change(units, settled), starts)
    counter.used, (_, counter.carried, counter.since, counter.end, _) = used, level
    counter.limit = row.limit
    if counter.ran_out_us is None:
        counter.units = row.limit.units
    if used > counter.peak:
        counter.peak = used


def _is_same(limit: QuotaLimit, other: QuotaLimit) -> bool:
    """Whether both count the same, in the same periods."""
    return limit is other or (limit.period == other.period and limit.meter == other.meter)


def _is_refunded(entitlement: Entitlement, event: RecordedRequest) -> bool:
    """Whether the new plan refunds such a request."""
    try:
        reason = OutcomeReason(event.reason)
    except ValueError:  # from another version of the sidecar
        return False
    begun = event.status != NOTHING_SENT
    return refunded(entitlement, Outcome(event.status, reason, event.latency_ms, 0, 0, None, begun))
