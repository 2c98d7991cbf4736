"""Decisions for gateways, of any protocol: decide before a request, settle after it.

The gate decides, settles and records, as for the data port. This module keeps the allowed requests
until their gateways report how they ended.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from sidecar.core.kinds import MICRO
from sidecar.core.reasons import Reason
from sidecar.core.refusals.build import simple_refusal
from sidecar.core.settlement import Outcome, OutcomeReason, late_costs, refunded
from sidecar.decide.open_decisions import OpenDecisions
from sidecar.decide.report import Report, outcome_of
from sidecar.gate import Admission, Deferred, Gate, ReadAhead, Refused
from sidecar.logs import logger
from sidecar.metrics import Metrics
from sidecar.proxy.access_log import log_request
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.request_end import end_trace

log = logger("decide")

TIMED_OUT: Final = "timed-out"
EVICTED: Final = "evicted"  # too many decisions are open
STOPPED: Final = "stopped"  # the sidecar stops
UNSETTLED: Final = (TIMED_OUT, EVICTED, STOPPED)
# The outcome of a request whose gateway never reports: allowed, and what it cost is known.
_ALLOWED: Final = Outcome(0, OutcomeReason.OK, 0, 0, 0)
_UNSETTLED: Final = Outcome(0, OutcomeReason.UNSETTLED, 0, 0, 0)


class Decided(NamedTuple):
    """A decision: an admission, or a refusal. `id`: for `settle`; "" if it is settled already."""

    id: str
    admission: Admission | None
    refused: Refused | None = None


class Settled:
    """A settlement: the units per meter that its event has, and whether they are billed."""

    __slots__ = ("billable", "failure", "label", "recorded", "usage")

    def __init__(
        self, usage: dict[str, int], recorded: "asyncio.Future[None] | None", *, billable: bool
    ) -> None:
        self.usage = usage
        self.billable = billable
        self.label = ""  # under which the request is counted
        self.recorded = recorded  # None: it is
        self.failure: Exception | None = None


class Decisions:
    """Decides for gateways. One per process and event loop; not thread-safe.

    `worker`: the number of this process, in the ids of its decisions. `most_open`: decisions that
    may be open at a time; `settle_timeout`: seconds until one is settled without a report.
    """

    def __init__(
        self,
        gate: Gate,
        metrics: Metrics,
        *,
        new_id: Callable[[], str],
        worker: int = 0,
        most_open: int = 100_000,
        settle_timeout: float = 300.0,
        access_log: bool = False,
    ) -> None:
        self.worker = worker
        self.closed = False  # allows no further request
        self.unsettled = dict.fromkeys(UNSETTLED, 0)
        self._gate = gate
        self._metrics = metrics
        self._suffix = f".{worker}"
        self._access_log = access_log
        self._new_id = new_id
        self._open: OpenDecisions[Settled] = OpenDecisions(most_open, settle_timeout)
        self._loop = asyncio.get_running_loop()

    @property
    def open(self) -> int:
        """The number of open decisions."""
        return len(self._open)

    # decide

    async def decide(
        self, request: Request, read: ReadAhead, started: float, *, settles: bool
    ) -> Decided:
        """Decide about a request. `read`: see `Gate.admit`; `started`: by `time.perf_counter`.

        `settles`: the gateway reports the end of the request by `settle`. Otherwise the request is
        settled now: its fixed cost and its estimates count, and it takes no slot.
        """
        if self.closed:
            request_id = self._new_id()
            refused = Refused(request_id, simple_refusal(Reason.DRAINING, request_id))
            return Decided("", None, refused)
        admitted = await self._gate.admit(request, read)
        if not isinstance(admitted, Admission):
            return self._refused(request, admitted, started)
        now = time.perf_counter()
        overhead = now - started - admitted.queued_us / MICRO
        self._metrics.added.observe(overhead)
        if request.trace is not None:
            self._metrics.added.attach(overhead, request.trace.trace_id)
        if not settles:
            await self._settle_at_once(admitted)
            return Decided("", admitted)
        admitted.in_flight.sent_at = now
        decision_id = admitted.request_id + self._suffix
        oldest = self._open.add(decision_id, admitted, self._loop.time())
        if oldest is not None:
            self._close(oldest, EVICTED)
        return Decided(decision_id, admitted)

    def _refused(self, request: Request, refused: Refused | Deferred, started: float) -> Decided:
        if isinstance(refused, Deferred):  # a gateway has no jobs
            refused = self._gate.refuse(refused, refused.refusal)
        if self._access_log:
            refusal = refused.refusal
            log_request(
                request, refused.request_id, refusal.status, refusal.reason, started,
                bytes_in=0, bytes_out=0, key=refused.key, entitlement=refused.entitlement,
            )  # fmt: skip
        if request.trace is not None:
            refusal = refused.refusal
            end_trace(
                request.trace, request, refused.request_id, refusal.status, refusal.reason, started,
                refused.key, refused.entitlement,
            )  # fmt: skip
        return Decided("", None, refused)

    async def _settle_at_once(self, admission: Admission) -> None:
        admission.in_flight.sent_at = None  # the sidecar does not learn how long it takes
        await self._until_recorded(self._settle(admission, _ALLOWED))

    # settle

    async def settle(self, decision_id: str, report: Report) -> Settled | None:
        """Settle a decision, once. Returns None if it is unknown or was settled without a report.

        The usage event is recorded on return. A repeated report changes nothing. Raises what
        recording raised.
        """
        settled = self._open.settled(decision_id)
        if settled is None:
            admission = self._open.take(decision_id)
            if admission is None:
                return None
            settled = self._report(admission, report)
            self._open.remember(decision_id, settled)
        await self._until_recorded(settled)
        return settled

    def _report(self, admission: Admission, report: Report) -> Settled:
        outcome, now = outcome_of(report, admission.entitlement), time.perf_counter()
        place = admission.in_flight
        sent_at = place.sent_at or now
        self._metrics.upstream.observe(now - sent_at)
        if outcome.reason is OutcomeReason.OK:
            place.on_response(outcome.status, now)
        settled = self._settle(admission, outcome)
        if self._access_log:
            log_request(
                cast("Request", admission.request), admission.request_id,
                outcome.status, settled.label, sent_at,
                bytes_in=outcome.bytes_in, bytes_out=outcome.bytes_out,
                key=admission.key, entitlement=admission.entitlement,
            )  # fmt: skip
        return settled

    def _settle(self, admission: Admission, outcome: Outcome) -> Settled:
        recorded = self._loop.create_future() if admission.late_overage else None
        entitlement = admission.entitlement
        usage = dict(entitlement.route.cost)
        if entitlement.settles:
            usage.update(late_costs(entitlement, outcome).capped_at(entitlement.caps).values)
        settled = Settled(usage, recorded, billable=not refunded(entitlement, outcome))

        def on_recorded(failure: Exception | None) -> None:
            settled.recorded, settled.failure = None, failure
            if recorded is not None and not recorded.done():
                recorded.set_result(None)

        settled.label = self._gate.settle(admission, outcome, on_recorded=on_recorded)
        request = cast("Request", admission.request)
        if request.trace is not None:
            end_trace(
                request.trace, request, admission.request_id, outcome.status, settled.label, 0.0,
                admission.key, entitlement,
            )  # fmt: skip
        return settled

    async def _until_recorded(self, settled: Settled) -> None:
        if settled.recorded is not None:
            await asyncio.shield(settled.recorded)
        if settled.failure is not None:
            raise settled.failure

    # without a report

    def sweep(self, now: float) -> None:
        """Settle the decisions that are overdue at this loop time."""
        overdue = self._open.take_overdue(now)
        while overdue is not None:
            self._close(overdue, TIMED_OUT)
            overdue = self._open.take_overdue(now)

    def settle_all(self) -> None:
        """Settle all decisions without a report: the sidecar stops."""
        left = self._open.take_any()
        while left is not None:
            self._close(left, STOPPED)
            left = self._open.take_any()

    def _close(self, admission: Admission, why: str) -> None:
        self.unsettled[why] += 1
        if self.unsettled[why] == 1:
            log.warning(
                "decision_unsettled",
                why=why,
                request_id=admission.request_id,
                remedy="let the gateway send POST /v1/settle for each allowed request, or ask "
                'with "settle": false',
            )
        try:
            self._settle(admission, _UNSETTLED)
        except Exception as error:
            log.error("settlement_failed", request_id=admission.request_id, exc_info=error)
