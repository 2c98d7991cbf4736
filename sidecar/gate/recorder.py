"""Who is told of a decision besides the client: events, metrics, the log and the demo's table."""

from collections.abc import Callable, Sequence

from sidecar.core.events.build import notice_event, refusal_event
from sidecar.core.model import Entitlement, Key
from sidecar.core.reasons import Decision, Reason, ThresholdCrossing
from sidecar.core.refusals.build import Refusal
from sidecar.gate.calls import NOBODY, Admission, Clock, DecisionRow, Deferred, Refused
from sidecar.logs import logger
from sidecar.metrics import Metrics
from sidecar.ports import Spool

log = logger("gate")


class Recorder:
    """Tells of what was decided. `record_refusals`: with an event for each refusal."""

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        clock: Clock,
        source: str,
        *,
        record_refusals: bool,
        on_decision: Callable[[DecisionRow], None] | None,
    ) -> None:
        self.on_decision = on_decision
        self._spool = spool
        self._metrics = metrics
        self._clock = clock
        self._source = source
        self._record_refusals = record_refusals

    def admitted(self, admission: Admission) -> None:
        """What an admission makes known, beside its event."""
        decision, found = admission.decision, admission.entitlement
        if decision.crossings:
            self.notices(admission, decision.crossings)
        for limit in decision.shadowed:
            self._metrics.shadow(found.plan.id, limit)
        if self.on_decision is not None:
            self._see(admission.key, found, "allow" if decision.reason is Reason.OK else
                      f"allow ({decision.reason})", decision)  # fmt: skip

    def refused(
        self,
        request_id: str,
        refusal: Refusal,
        plan_version: str,
        key: Key | None = None,
        entitlement: Entitlement | None = None,
        decision: Decision | None = None,
    ) -> Refused:
        """The refusal, once it is counted and told."""
        route = entitlement.route.id if entitlement else NOBODY
        request_class = entitlement.route.request_class if entitlement else NOBODY
        plan = entitlement.plan.id if entitlement else NOBODY
        self._metrics.count(route, request_class, plan, refusal.reason)
        if self._record_refusals and key is not None and self._spool.accepting:
            self._spool.append(
                refusal_event(
                    id=request_id,
                    source=self._source,
                    time=self._clock.timestamp(self._clock.now_ns()),
                    key=key,
                    entitlement=entitlement,
                    plan_version=plan_version,
                    status=refusal.status,
                    reason=refusal.reason,
                )
            )
        if self.on_decision is not None:
            self._see(key, entitlement, f"{refusal.status} {refusal.reason}", decision)
        return Refused(request_id, refusal, key, entitlement, decision)

    def queued(self, deferred: Deferred) -> None:
        """The call runs later: it is counted as deferred now, and as a call when it runs."""
        found = deferred.entitlement
        route = found.route
        self._metrics.count(route.id, route.request_class, found.plan.id, Reason.DEFERRED)
        if self.on_decision is not None:
            self._see(deferred.key, found, "202 deferred", deferred.decision)

    def notices(self, admission: Admission, crossings: Sequence[ThresholdCrossing]) -> None:
        """An event for each threshold, and a line in the log."""
        for crossing in crossings:
            self._spool.append(
                notice_event(
                    source=self._source,
                    time=admission.time,
                    key=admission.key,
                    entitlement=admission.entitlement,
                    plan_version=admission.plan_version,
                    crossing=crossing,
                )
            )
            log.info(
                "threshold_crossed",
                account=admission.key.account.id,
                limit=crossing.limit.id,
                percent=crossing.percent,
            )

    def _see(
        self,
        key: Key | None,
        entitlement: Entitlement | None,
        text: str,
        decision: Decision | None,
    ) -> None:
        tightest = decision.tightest if decision else None
        remaining = f"{tightest.remaining} ({tightest.claim.limit.id})" if tightest else NOBODY
        if decision and decision.violated:
            remaining = f"0 ({decision.violated[0].claim.limit.id})"
        assert self.on_decision is not None  # noqa: S101 - callers checked
        self.on_decision(
            DecisionRow(
                key.account.id if key else NOBODY,
                entitlement.route.id if entitlement else NOBODY,
                entitlement.route.request_class if entitlement else NOBODY,
                text,
                remaining,
            )
        )
