"""The one path of every request: an entry point calls `admit` before it and `settle` after it.

This file owns the order: identify → entitle → reserve → decide, and settle → record. It must not
know HTTP bytes, Redis, files or YAML.
"""

from time import perf_counter
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.claims import at_no_cost, with_estimates
from sidecar.core.counting.teams import team_use
from sidecar.core.events.build import NODE, REDIS
from sidecar.core.events.periods import starts_of
from sidecar.core.identity import ANONYMOUS
from sidecar.core.kinds import PeriodLimit, TeamShare
from sidecar.core.model import Claim, Entitlement, Key, PlanBook, RequestClass
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal, feature_refusal, simple_refusal, with_wait
from sidecar.core.settlement import (
    Outcome,
    OutcomeReason,
    estimated_costs,
    late_costs,
    refunded,
)
from sidecar.errors import StoreUnavailable
from sidecar.gate.admission import Admission, Deferred, InboundRequest, MayDefer, ReadAhead, Refused
from sidecar.gate.entitle import Entitler, as_job, detail_of, unidentified_detail
from sidecar.gate.recorder import Recorder
from sidecar.gate.reserve import Attempt, Reserver
from sidecar.gate.settling import OnRecorded, Settling
from sidecar.ports import Trace, Tracer

_UNANSWERED: Final = frozenset(
    {
        OutcomeReason.UPSTREAM_REFUSED,
        OutcomeReason.UPSTREAM_TIMEOUT,
        OutcomeReason.UPSTREAM_BROKEN,
    }
)


_CLIENT_GONE: Final = OutcomeReason.CLIENT_GONE


class Gate:
    """Admits requests and settles them. One per process and event loop; not thread-safe."""

    def __init__(
        self,
        entitler: Entitler,
        reserver: Reserver,
        recorder: Recorder,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._entitler = entitler
        self._reserver = reserver
        self._recorder = recorder
        self._clock = recorder.clock
        self._prepare(entitler.book)

    def reload(self, book: PlanBook) -> None:
        """Decide by this book from the next request on; requests in flight keep theirs."""
        self._entitler.reload(book)
        self._prepare(book)

    def _prepare(self, book: PlanBook) -> None:
        self._reserver.shedder.retain_routes({route.id for route in book.routes})
        self._recorder.reload(book.version)

    @property
    def book(self) -> PlanBook:
        """The live plan book."""
        return self._entitler.book

    # admit: identify → entitle → reserve → decide

    async def admit(
        self,
        request: InboundRequest,
        read: ReadAhead,
        may_defer: MayDefer | None = None,
        job_of: bytes | None = None,
    ) -> Admission | Refused | Deferred:
        """Decide whether a request is forwarded. Reserves its claims if so, nothing if not.

        `read` reads the request's cost from its body, on routes that need it; its exceptions pass
        through, and nothing is reserved before. `may_defer`: whether a request that limits refuse
        may be deferred. `job_of`: the request is a deferred job of the key with this digest. It is
        not allowed without Redis, and can be given back (`abandon`).
        """
        book, entitler = self._entitler.book, self._entitler
        now_ns = self._clock.now_ns()
        request_id = self._clock.request_id(now_ns)
        trace: Trace | None = None
        at = 0.0  # when the traced step began
        if self._tracer is not None:
            trace = request.trace = self._tracer.start(request_id, request.traceparents)
            if trace is not None:
                at = perf_counter()
        key = entitler.identify(request) if job_of is None else entitler.known(job_of)
        if not isinstance(key, Key):
            found = await entitler.look_up(key) if isinstance(key, bytes) else key
            if isinstance(found, Reason):
                if trace is not None:
                    trace.span("identify", at, found)
                refusal = simple_refusal(found, request_id, unidentified_detail(found))
                return self._refuse(request_id, refusal)
            key = found
        if trace is not None:
            trace.span("identify", at)
        entitlement = entitler.entitle(request, key)
        if isinstance(entitlement, Reason):
            refusal = simple_refusal(entitlement, request_id, detail_of(entitlement, key))
            return self._refuse(request_id, refusal, key)
        if entitlement.missing:
            refusal = feature_refusal(book, entitlement, key.account, request_id)
            return self._refuse(request_id, refusal, key, entitlement)
        request_class = entitlement.route.request_class
        if not self._recorder.spool.accepting and request_class is not RequestClass.CRITICAL:
            refusal = simple_refusal(Reason.SPOOL_FULL, request_id)
            return self._refuse(request_id, refusal, key, entitlement)
        if entitlement.estimates and not self._reserver.shedder.is_full(
            request_class, perf_counter(), key.account.id
        ):
            entitlement = with_estimates(entitlement, await read(entitlement))
        if job_of is not None:
            entitlement = as_job(entitlement)
        attempt = Attempt(book, key, entitlement, request_id, job_of is not None)
        waited_us, wait_end, spool = 0, "", self._recorder.spool
        step = "reserve"
        spool.in_flight[0] += 1  # until it has its event, or is refused
        try:
            if trace is not None:
                at = perf_counter()
            decision = await self._reserver.reserve(attempt)
            if trace is not None:
                trace.span(step, at, decision.reason)
            if decision.wait is not None:
                step = "wait"
                if trace is not None:
                    at = perf_counter()
                result = await self._reserver.wait(request, attempt, decision)
                decision, waited_us, wait_end = result
                if trace is not None and wait_end:
                    trace.span(step, at, wait_end)
        except StoreUnavailable:
            if trace is not None:
                trace.span(step, at, Reason.STORE_UNAVAILABLE, failed=True)
            spool.in_flight[0] -= 1
            refusal = simple_refusal(Reason.STORE_UNAVAILABLE, request_id)
            return self._refuse(request_id, refusal, key, entitlement)
        except BaseException:
            spool.in_flight[0] -= 1
            raise
        if attempt.in_flight is None:
            spool.in_flight[0] -= 1
            refusal = self._reserver.refusal(attempt, decision, wait_end, self._clock.jitter())
            refusal = with_wait(refusal, waited_us)
            if may_defer and decision.violated and may_defer(request, entitlement, decision):
                return Deferred(request_id, refusal, key, entitlement, decision)
            return self._refuse(request_id, refusal, key, entitlement, decision)
        answer = attempt.answer
        if answer is None or answer.local:  # a local answer may have the node's clock
            redis_us, ends_us = self._recorder.redis_us(), () if answer is None else answer.ends_us
        else:
            redis_us, ends_us = answer.now_us, answer.ends_us
        admission = Admission(
            request_id,
            self._clock.timestamp(redis_us * 1000 if redis_us else now_ns),
            REDIS if redis_us else NODE,
            request,
            key,
            entitlement,
            book.version,
            decision,
            attempt.in_flight,
            ends_us,
            starts_of(answer.details) if answer is not None and answer.details else (),
            entitlement.stays_open and decision.now_us > 0,
            waited_us,
        )
        if decision.crossings or decision.shadowed or self._recorder.on_decision is not None:
            try:
                self._recorder.admitted(admission)
            except BaseException:
                self.abandon(admission)
                raise
        return admission

    def _refuse(
        self,
        request_id: str,
        refusal: Refusal,
        key: Key | None = None,
        entitlement: Entitlement | None = None,
        decision: Decision | None = None,
    ) -> Refused:
        refused = Refused(request_id, refusal, key, entitlement, decision)
        self._recorder.refused(refused, self.book.version)
        return refused

    def record_deferred(self, deferred: Deferred) -> None:
        """Record that a deferred request was queued as a job."""
        self._recorder.deferred(deferred)

    def refuse(self, deferred: Deferred, refusal: Refusal) -> Refused:
        """Refuse a deferred request that was not queued."""
        return self._refuse(
            deferred.request_id, refusal, deferred.key, deferred.entitlement, deferred.decision
        )

    def abandon(self, admission: Admission) -> None:
        """Give back an admitted request of which nothing was sent.

        It has no event. It costs nothing if its reservation is open, as a job's always is.
        """
        admission.in_flight.leave(perf_counter())
        if admission.stays_open:
            key, claims = admission.key, at_no_cost(admission.entitlement.claims)
            self._reserver.store.settle(
                key.account, key.id, claims, admission.request_id, billed=False
            )
        self._recorder.spool.in_flight[0] -= 1

    # Questions that reserve nothing

    async def identify(self, request: InboundRequest) -> Key | Refused:
        """Return the key of a request about its own account, or why not. Never anonymous."""
        request_id = self._clock.request_id(self._clock.now_ns())
        key = self._entitler.identify(request)
        if isinstance(key, bytes):
            key = await self._entitler.look_up(key)
        if isinstance(key, Key) and key.id == ANONYMOUS:
            key = Reason.NO_CREDENTIAL
        if isinstance(key, Reason):
            refusal = simple_refusal(key, request_id, unidentified_detail(key))
            return self._refuse(request_id, refusal)
        return key

    def entitle(self, request: InboundRequest, key: Key) -> Entitlement | Reason:
        """Return what the key's plan says of a request, or why it says nothing."""
        return self._entitler.entitle(request, key)

    def entitlement_of(self, request: InboundRequest, key: Key) -> Entitlement | None:
        """Return the entitlement of a request; None if it would always be refused."""
        entitlement = self._entitler.entitle(request, key)
        if isinstance(entitlement, Reason) or entitlement.missing:
            return None
        return entitlement

    async def peek(self, key: Key, entitlement: Entitlement) -> Answer | None:
        """Return the state of the limits of such a request; None without limits.

        Raises StoreUnavailable.
        """
        if not entitlement.claims:
            return None
        return await self._reserver.store.peek(key.account, key.id, entitlement.claims)

    async def has_quota_left(self, admission: Admission) -> bool:
        """Whether a tunnel may stay open: its plan closes tunnels when a quota is used up.

        True if the store is unavailable: an outage does not close tunnels.
        """
        entitlement, key = admission.entitlement, admission.key
        quotas = tuple(
            claim
            for claim in entitlement.claims
            if isinstance(claim.limit, PeriodLimit) and not claim.forced
        )
        if not entitlement.plan.closes_tunnels or not quotas:
            return True
        try:
            answer = await self._reserver.store.peek(key.account, key.id, quotas)
        except StoreUnavailable:
            return True
        return all(_units_left(quotas, answer, at) for at in range(len(quotas)))

    # settle → record

    def settle(
        self,
        admission: Admission,
        outcome: Outcome,
        *,
        internal_error: bool = False,
        on_recorded: OnRecorded | None = None,
    ) -> str:
        """Settle an admitted request and record its event. Call it exactly once, in any case.

        `internal_error`: the sidecar failed. Returns the label under which the request is counted.
        The event is recorded on return, unless `admission.late_overage`: then it is recorded as
        soon as the store has answered or failed to, and `on_recorded` gets None, or the exception
        that recording raised.
        """
        reason = outcome.reason
        entitlement = admission.entitlement
        trace: Trace | None = None
        started = 0.0
        if self._tracer is not None:
            trace = admission.request.trace
            if trace is not None:
                started = perf_counter()
        if entitlement.settles or entitlement.defaulted or entitlement.grows:
            outcome = self._with_late_costs(admission, outcome)
        in_flight = admission.in_flight
        in_flight.leave(
            perf_counter() if in_flight.waits else 0.0,
            dropped=reason in _UNANSWERED,
            client_gone=reason is _CLIENT_GONE,
        )
        if admission.stays_open:
            settling = Settling(self._recorder, self._reserver, admission, outcome, on_recorded)
            if trace is not None:
                settling.trace_until_settled(trace, started)
            settling.start()
        record = not admission.late_overage
        label = self._recorder.forwarded(
            admission, outcome, internal_error=internal_error, record=record
        )
        if record:
            self._recorder.spool.in_flight[0] -= 1
        if trace is not None and not admission.stays_open:
            trace.span("settle", started)
        return label

    def _with_late_costs(self, admission: Admission, outcome: Outcome) -> Outcome:
        """Return the outcome with the costs that settle, and record what was not measured."""
        entitlement = admission.entitlement
        late = late_costs(entitlement, outcome)
        reading = late.capped_at(entitlement.caps)
        if reading is not late:
            self._recorder.capped(admission, reading)
        if not refunded(entitlement, outcome):
            self._recorder.settled(admission, reading)
        estimated = estimated_costs(entitlement, reading)
        if estimated:
            self._recorder.estimated(estimated)
        return outcome._replace(reading=reading)


def _units_left(quotas: tuple[Claim, ...], answer: Answer, at: int) -> bool:
    limit = quotas[at].limit
    if isinstance(limit, TeamShare):
        return team_use(quotas, answer, at).left > 0
    return answer.used[at] < limit.capacity
