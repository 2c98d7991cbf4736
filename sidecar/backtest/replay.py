"""The calls of one account once more, under another plan file, in virtual time. Pure.

Decides what `core/ledger.py` and `core/decision.py` would decide, which a property test sees to,
in a fraction of their time. A call holds its slots for as long as it took. One that would have been
held until it fits (`max_wait`) is charged when it came and begins later. What would have been tried
again cannot be known, so a refused call is simply gone.
"""

from collections.abc import Callable, Sequence
from datetime import date
from heapq import heappop, heappush
from typing import Final, NamedTuple

from sidecar.backtest.counters import (
    ENFORCED,
    FORCED,
    Level,
    Program,
    QuotaRow,
    Stand,
    States,
    drained,
    free,
    levels,
)
from sidecar.backtest.refusal import (
    ReplayedRefusal,
    beside_teams,
    held_us,
    is_short,
    period_of,
    refusal,
)
from sidecar.backtest.report import AccountReport
from sidecar.backtest.teams import count
from sidecar.core import limits
from sidecar.core.events.read import RecordedRequest, Units
from sidecar.core.limits import State
from sidecar.core.model import UNBOUNDED, Account, Entitlement, Key, PlanBook
from sidecar.core.periods import Window
from sidecar.core.settlement import Outcome, OutcomeReason, refunded
from sidecar.core.teams import TeamEntitlements

KEPT: Final = 10_000  # programs of one account
MILLI: Final = 1_000
NOTHING_SENT: Final = 499  # the status of a call whose client had got nothing

WindowOf = Callable[[str, str, date | None, int], Window]


class InFlight(NamedTuple):
    """A call that is open until it ends; sorts by when that is. `since`: of the periods that it
    was charged in; `counted`: whether each rate was charged."""

    end_us: int
    number: int
    program: Program
    gives_back: bool
    since: tuple[int, ...]
    counted: tuple[bool, ...]


class Replay:
    """One account. `call` it with its calls in the order of time; `report` is what came of it.

    `account`: as the new plan file has it. With `follow`, each call is on the plan that its event
    names instead. `windows` finds periods.
    """

    def __init__(
        self, book: PlanBook, account: Account, windows: WindowOf, *, follow: bool = False
    ) -> None:
        self.states = States()
        self.report = AccountReport(account.id)
        self._book = book
        self._account = account
        self._windows = windows
        self._follow = follow
        self._programs: dict[tuple[str, str, str, str, Units], Program | str] = {}
        self._of_team = TeamEntitlements()
        self._in_flight: list[InFlight] = []
        self._number = 0

    def call(self, event: RecordedRequest) -> ReplayedRefusal | None:
        """The next call: it is charged, refused, or put aside with the reason in the report."""
        at, report = event.time_us, self.report
        report.take(event)
        name = event.key, event.team, event.plan, event.route, event.usage
        program = self._programs.get(name)
        if program is None:
            program = self._programs[name] = self._program(event)
        if isinstance(program, str):
            report.put_aside(program, event)
            return None
        if self._in_flight:
            self.pass_time(at)
        buckets = levels(program.rates, at)
        stands = None if buckets is None else self._stands(program.quotas, at)
        full = bool(program.slots) and not free(program.slots)
        if stands is not None and program.shares and not beside_teams(program, stands, at):
            full = True
        wait_us = 0
        if buckets is None or stands is None or full:
            stands = [self._stand(row, at) for row in program.quotas]
            why = refusal(program, stands, at)
            held = held_us(program, stands, at) if program.waits else None
            buckets = None if held is None else levels(program.rates, at, held=True)
            if buckets is None or held is None:
                report.refuse(why.limit, why.reason, why.wait_us)
                return why
            report.hold(why.limit, held)
            wait_us = held
        self._charge(program, event, buckets, stands, wait_us)
        return None

    def pass_time(self, at: int) -> None:
        """End the calls that are over at `at`."""
        while self._in_flight and self._in_flight[0].end_us <= at:
            self._end(heappop(self._in_flight))

    def done(self) -> AccountReport:
        """The report, when there are no more calls."""
        self.report.quotas_of(self.states.counters)
        return self.report

    def _program(self, event: RecordedRequest) -> Program | str:
        """What the new file says of such a call; a text says why it cannot be replayed."""
        if len(self._programs) >= KEPT:
            self._programs.clear()
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
        return self.states.program(entitlement, event.key, event.usage)

    def _stands(self, quotas: Sequence[QuotaRow], at: int) -> list[Stand] | None:
        """The quotas as they are now; None when the call does not fit."""
        found = []
        for row in quotas:
            stand = self._stand(row, at)
            if row.mode == ENFORCED and stand[0] + row.cost > row.cap + stand[1]:
                return None
            found.append(stand)
        return found

    def _stand(self, row: QuotaRow, at: int) -> Stand:
        counter, limit = row.counter, row.limit
        if at < counter.end and counter.period == limit.period:
            carried = counter.carried if limit.rollover else 0
            return counter.used, carried, counter.since, counter.end
        account = self._account
        window = self._windows(limit.period, account.timezone, account.anchor, at)
        before = State(counter.used, counter.since, 0, counter.carried)
        now, end = limits.current(limit, before, window, at)
        return now.used, now.carried, now.since_us, end

    def _charge(
        self,
        program: Program,
        event: RecordedRequest,
        buckets: list[Level],
        stands: list[Stand],
        wait_us: int,
    ) -> None:
        overage: dict[str, int] | None = None
        for bucket, used, since, _ in buckets:
            bucket.used, bucket.since = used, since
        for row, stand in zip(program.quotas, stands, strict=True):
            own = row.limit.units + stand[1]
            used = min(stand[0] + row.cost, UNBOUNDED)
            _keep(row, stand, used)
            if used >= own:
                if row.counter.ran_out_us is None:
                    row.counter.ran_out_us = event.time_us
                if used > own:
                    over, overage = used - max(own, used - row.cost), overage or {}
                    overage[row.limit.meter] = max(over, overage.get(row.limit.meter, 0))
        if program.shadows:
            self._tell_shadows(program, buckets, stands, event.time_us)
        for share in program.shares:
            count(share, period_of(stands[share.quota], event.time_us), share.cost)
        gives_back = program.refunds and _gives_back(program.entitlement, event)
        if not gives_back:
            self.report.charge(program.costs, overage)
        if gives_back or program.slots:
            end = event.time_us + wait_us + event.latency_ms * MILLI
            self._hold(program, end, gives_back, buckets, stands)

    def _tell_shadows(
        self, program: Program, buckets: list[Level], stands: list[Stand], at: int
    ) -> None:
        """Limits in shadow that would have refused this call."""
        for rate, (_, _, _, counted) in zip(program.rates, buckets, strict=True):
            if not counted:
                self.report.shadow(rate.limit)
        short = {row.quota for row in program.shares if is_short(program, row, stands, at)}
        for place, row in enumerate(program.quotas):
            used, carried, _, _ = stands[place]
            over = used + row.cost > row.cap + carried or place in short
            if over and row.limit.shadow and row.mode != FORCED:
                self.report.shadow(row.limit)
        for slot in program.slots:
            over = len(slot.taken.ends) >= slot.cap
            if over and slot.limit.shadow and slot.mode != FORCED:
                self.report.shadow(slot.limit)

    def _hold(
        self,
        program: Program,
        end: int,
        gives_back: bool,
        buckets: list[Level],
        stands: list[Stand],
    ) -> None:
        self._number += 1
        for slot in program.slots:
            heappush(slot.taken.ends, end)
        since = tuple(stand[2] for stand in stands)
        counted = tuple(level[3] for level in buckets)
        flight = InFlight(end, self._number, program, gives_back, since, counted)
        heappush(self._in_flight, flight)

    def _end(self, flight: InFlight) -> None:
        """A call is over: its slots are free, and what it cost comes back if the plan says so."""
        at, back = flight.end_us, flight.gives_back
        for rate, counted in zip(flight.program.rates, flight.counted, strict=True):
            used, now = drained(rate, at)
            weight = rate.weight if back and counted else 0
            rate.bucket.used, rate.bucket.since = max(0, used - weight), now
        for row, since in zip(flight.program.quotas, flight.since, strict=True):
            stand = self._stand(row, at)
            cost = row.cost if back and stand[2] == since else 0
            _keep(row, stand, max(0, stand[0] - cost))
        for share in flight.program.shares if back else ():
            stand = self._stand(flight.program.quotas[share.quota], at)
            if stand[2] == flight.since[share.quota]:
                count(share, period_of(stand, at), -share.cost)
        for slot in flight.program.slots:
            heappop(slot.taken.ends)


def _keep(row: QuotaRow, stand: Stand, used: int) -> None:
    counter = row.counter
    counter.used, (_, counter.carried, counter.since, counter.end) = used, stand
    counter.period = row.limit.period
    if counter.ran_out_us is None:
        counter.units = row.limit.units
    if used > counter.peak:
        counter.peak = used


def _gives_back(entitlement: Entitlement, event: RecordedRequest) -> bool:
    """Whether the new plan refunds what such a call costs."""
    try:
        reason = OutcomeReason(event.reason)
    except ValueError:  # of another version of the sidecar
        return False
    begun = event.status != NOTHING_SENT
    return refunded(entitlement, Outcome(event.status, reason, event.latency_ms, 0, 0, None, begun))
