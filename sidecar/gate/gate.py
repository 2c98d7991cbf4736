"""The one path. Every door (our proxy, a gateway's plugin) calls `admit` before and `settle` after.

What must live here: the order identify → entitle → reserve → decide, and settle → record.
What this file must not know: HTTP bytes, Redis, files, YAML.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.claims import at_no_cost, estimated
from sidecar.core.decision import crossings_of
from sidecar.core.events.build import usage_event
from sidecar.core.events.templates import EventTemplates
from sidecar.core.identity import ANONYMOUS
from sidecar.core.model import Entitlement, Key, PlanBook, QuotaLimit, RequestClass, TeamShare
from sidecar.core.overload.shedder import Shedder
from sidecar.core.paths import Normaliser, normalise
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal, feature_refusal, simple_refusal, waited
from sidecar.core.settlement import Outcome, OutcomeReason, real_claims
from sidecar.core.teams import use_of
from sidecar.errors import StoreUnavailable
from sidecar.gate.calls import (
    Admission,
    Clock,
    DecisionRow,
    Deferred,
    Defers,
    InboundRequest,
    ReadAhead,
    Refused,
)
from sidecar.gate.entitle import Entitler, why
from sidecar.gate.recorder import Recorder
from sidecar.gate.reserve import Attempt, Reserver
from sidecar.metrics import INTERNAL_ERROR, Metrics
from sidecar.ports import KeyDirectory, LimitStore, Spool, WaitingRoom

_UNANSWERED: Final = frozenset(
    {
        OutcomeReason.UPSTREAM_REFUSED,
        OutcomeReason.UPSTREAM_TIMEOUT,
        OutcomeReason.UPSTREAM_BROKEN,
    }
)


class Gate:
    """Admits calls and settles them. One per process; not thread-safe, as the loop is not."""

    def __init__(
        self,
        book: PlanBook,
        *,
        store: LimitStore,
        directory: KeyDirectory,
        spool: Spool,
        metrics: Metrics,
        clock: Clock,
        source: str,
        now_us: Callable[[], int] | None = None,
        room: WaitingRoom | None = None,
        shedder: Shedder | None = None,
        record_refusals: bool = False,
        paths: Normaliser = normalise,
        ignore_case: bool = False,
        on_decision: Callable[[DecisionRow], None] | None = None,
    ) -> None:
        self._store = store
        self._spool = spool
        self._metrics = metrics
        self._clock = clock
        self._source = source
        self._room = room
        self._shedder = shedder or Shedder()
        # Accounts move by the time that all sidecars share, where there is one.
        by_us = now_us or (lambda: clock.now_ns() // 1000)
        self._knowing = Entitler(book, directory, paths, by_us, ignore_case=ignore_case)
        self._reserving = Reserver(store, room, self._shedder, metrics.store.observe)
        self._telling = Recorder(
            spool, metrics, clock, source,
            record_refusals=record_refusals, on_decision=on_decision,
        )  # fmt: skip
        self._begin_book()

    def swap(self, book: PlanBook) -> None:
        """Decide by this book from the next call on; calls in flight keep theirs."""
        self._knowing.swap(book)
        self._begin_book()

    def _begin_book(self) -> None:
        self._shedder.retain_routes({route.id for route in self.book.routes})
        self._event_templates = EventTemplates(self._source, self.book.version)

    @property
    def book(self) -> PlanBook:
        """The live plan book."""
        return self._knowing.book

    # admit: identify → entitle → reserve → decide

    async def admit(
        self,
        call: InboundRequest,
        read: ReadAhead,
        defers: Defers | None = None,
        job_of: bytes | None = None,
    ) -> Admission | Refused | Deferred:
        """Decide whether a call may go on. Charges its claims if so, nothing if not.

        `read` looks into the request's body for what the call costs; it is asked on routes that
        want it, and what it raises passes through: nothing was charged by then. `defers`: whether
        a call that limits refuse may be deferred. `job_of`: the call is a deferred job of the key
        with this digest; it waits for Redis, and can be given back (`abandon`).
        """
        book, knowing = self._knowing.book, self._knowing
        now_ns = self._clock.now_ns()
        request_id = self._clock.request_id(now_ns)
        key = knowing.identify(call) if job_of is None else knowing.known(job_of)
        if isinstance(key, bytes):
            key = await knowing.look_up(key)
        if isinstance(key, Reason):
            return self._refuse(request_id, simple_refusal(key, request_id))
        found = knowing.entitle(call, key)
        if isinstance(found, Reason):
            refusal = simple_refusal(found, request_id, why(found, key))
            return self._refuse(request_id, refusal, key)
        if found.missing:
            refusal = feature_refusal(book, found, key.account, request_id)
            return self._refuse(request_id, refusal, key, found)
        if not self._spool.accepting and found.route.request_class is not RequestClass.CRITICAL:
            refusal = simple_refusal(Reason.SPOOL_FULL, request_id)
            return self._refuse(request_id, refusal, key, found)
        if found.estimates and not self._shedder.is_full(
            found.route.request_class, time.perf_counter()
        ):
            found = estimated(found, await read(found))
        if job_of is not None:
            found = _as_job(found)
        asking = Attempt(book, key, found, request_id, for_job=job_of is not None)
        waited_us, left = 0, ""
        try:
            decision = await self._reserving.reserve(asking)
            if decision.wait is not None:
                decision, waited_us, left = await self._reserving.hold(call, asking, decision)
        except StoreUnavailable:
            refusal = simple_refusal(Reason.STORE_UNAVAILABLE, request_id)
            return self._refuse(request_id, refusal, key, found)
        if asking.place is None:
            refusal = self._reserving.explain(asking, decision, left, self._clock.jitter())
            refusal = waited(refusal, waited_us)
            if defers is not None and decision.violated and defers(call, found, decision):
                return Deferred(request_id, refusal, key, found, decision)
            return self._refuse(request_id, refusal, key, found, decision)
        admission = Admission(
            request_id,
            self._clock.timestamp(now_ns),
            call,
            key,
            found,
            book.version,
            decision,
            asking.place,
            held=found.held and decision.now_us > 0,
            queued_us=waited_us,
        )
        if decision.crossings or decision.shadowed or self._telling.on_decision is not None:
            try:
                self._telling.admitted(admission)
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
        version = self.book.version
        return self._telling.refused(request_id, refusal, version, key, entitlement, decision)

    # what is not a call to the API

    async def identify(self, call: InboundRequest) -> Key | Refused:
        """Whose call it is that asks about its own account: by its key, and never anonymous."""
        request_id = self._clock.request_id(self._clock.now_ns())
        key = self._knowing.identify(call)
        if isinstance(key, bytes):
            key = await self._knowing.look_up(key)
        if isinstance(key, Key) and key.id == ANONYMOUS:
            key = Reason.NO_CREDENTIAL
        if isinstance(key, Reason):
            return self._refuse(request_id, simple_refusal(key, request_id))
        return key

    def entitlement_of(self, call: InboundRequest, key: Key) -> Entitlement | None:
        """What the key's plan says of a call; None: it would be refused for good."""
        found = self._knowing.entitle(call, key)
        return None if isinstance(found, Reason) or found.missing else found

    async def outlook(self, key: Key, found: Entitlement) -> Answer | None:
        """How the limits stand that such a call counts against; None: it counts against none.
        Raises StoreUnavailable."""
        if not found.claims:
            return None
        return await self._store.peek(key.account, key.id, found.claims)

    def queued(self, deferred: Deferred) -> None:
        """The call runs later."""
        self._telling.queued(deferred)

    def refuse(self, deferred: Deferred, refusal: Refusal) -> Refused:
        """The call is not deferred after all."""
        one = deferred
        return self._refuse(one.request_id, refusal, one.key, one.entitlement, one.decision)

    def abandon(self, admission: Admission) -> None:
        """Give an admitted call back of which nothing was sent: it is no event, and costs nothing
        if its reservation is held, as a job's always is."""
        admission.place.leave(time.perf_counter())
        if admission.held:
            key, found = admission.key, admission.entitlement
            claims = at_no_cost(found.claims)
            self._store.settle(key.account, key.id, claims, admission.request_id)

    async def has_quota_left(self, admission: Admission) -> bool:
        """Whether a call that goes on and on may do so, as its plan wants it. True when that
        cannot be told: what runs is not ended for a store that is gone."""
        found, key = admission.entitlement, admission.key
        quotas = tuple(
            claim
            for claim in found.claims
            if isinstance(claim.limit, QuotaLimit) and not claim.forced
        )
        if not found.plan.closes_tunnels or not quotas:
            return True
        try:
            answer = await self._store.peek(key.account, key.id, quotas)
        except StoreUnavailable:
            return True
        return all(
            use_of(quotas, answer, at).left > 0
            if isinstance(claim.limit, TeamShare)
            else used < claim.limit.cap
            for at, (used, claim) in enumerate(zip(answer.used, quotas, strict=True))
            if isinstance(claim.limit, QuotaLimit)
        )

    # settle → record

    def settle(self, admission: Admission, outcome: Outcome, *, broke: bool = False) -> str:
        """Close an admitted call: one event, whatever happened. The caller does it exactly once.

        `broke`: it ended for a fault of our own. Returns the outcome that it is counted under.
        """
        reason = outcome.reason
        admission.place.leave(
            time.perf_counter(),
            dropped=reason in _UNANSWERED,
            client_gone=reason is OutcomeReason.CLIENT_GONE,
        )
        entitlement = admission.entitlement
        route = entitlement.route
        label: str = reason if reason != "ok" else admission.decision.reason
        if broke:
            label = INTERNAL_ERROR
        self._metrics.count(route.id, route.request_class, entitlement.plan.id, label)
        if admission.held:
            self._settle(admission, outcome)
        self._record(admission, outcome)
        return label

    def _record(self, admission: Admission, outcome: Outcome) -> None:
        overage = admission.decision.overage
        if not overage and not admission.job:
            written = self._event_templates.fill(
                id=admission.request_id,
                time=admission.time,
                key=admission.key,
                entitlement=admission.entitlement,
                plan_version=admission.plan_version,
                method=admission.call.method,
                outcome=outcome,
            )
            if written is not None:
                self._spool.append(written)
                return
        event = usage_event(
            id=admission.request_id,
            source=self._source,
            time=admission.time,
            key=admission.key,
            entitlement=admission.entitlement,
            plan_version=admission.plan_version,
            overage=overage,
            method=admission.call.method,
            outcome=outcome,
        )
        if admission.job:
            event["data"]["job"] = admission.job
        self._spool.append(event)

    def _settle(self, admission: Admission, outcome: Outcome) -> None:
        claims = real_claims(admission.entitlement, outcome)

        def told(answer: Answer) -> None:
            if self._room is not None and self._room.waiting:
                self._room.update(admission.key, claims, answer)
            crossings = crossings_of(claims, answer)
            if crossings:
                self._telling.notices(admission, crossings)

        key = admission.key
        self._store.settle(key.account, key.id, claims, admission.request_id, told)


def _as_job(found: Entitlement) -> Entitlement:
    """A job gives way to every other call, and is held, so that it can be given back. Its claims
    are its own: what the store remembers of others' has no hold."""
    route = replace(found.route, request_class=RequestClass.DEFERRABLE)
    return replace(found, route=route, claims=(*found.claims,), held=bool(found.claims))
