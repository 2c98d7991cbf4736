"""record: events, metrics, log events, and the rows of the demo's table."""

from collections.abc import Callable, Mapping, Sequence

from sidecar.core.costs import Unreadable
from sidecar.core.events.build import (
    NODE,
    REDIS,
    notice_event,
    overage_event,
    refusal_event,
    usage_event,
)
from sidecar.core.events.periods import periods_of
from sidecar.core.events.templates import EventTemplates
from sidecar.core.model import Entitlement, Key
from sidecar.core.readings import Reading
from sidecar.core.reasons import NO_OVERAGE, Decision, Overage, Reason, ThresholdCrossing
from sidecar.core.settlement import Outcome
from sidecar.gate.admission import UNKNOWN, Admission, Clock, DecisionRow, Deferred, Refused
from sidecar.logs import logger
from sidecar.metrics import INTERNAL_ERROR, Metrics
from sidecar.ports import Spool

log = logger("gate")


class Recorder:
    """Recorder of decisions and outcomes.

    `source`: the `source` of all events. With `record_refusals`, each refusal is also an event.
    `redis_us`: Redis time in µs, as far as it is known without a question; 0: it is not.
    """

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        clock: Clock,
        source: str,
        *,
        record_refusals: bool = False,
        on_decision: Callable[[DecisionRow], None] | None = None,
        redis_us: Callable[[], int] = lambda: 0,
    ) -> None:
        self.redis_us = redis_us
        self.spool = spool
        self.clock = clock
        self.on_decision = on_decision
        self._metrics = metrics
        self._source = source
        self._record_refusals = record_refusals
        self.reload("")

    def reload(self, plan_version: str) -> None:
        """Prepare for events under this version of the plan file."""
        self._templates = EventTemplates(self._source, plan_version)

    def admitted(self, admission: Admission) -> None:
        """Record notices and shadow refusals of an admission; its event follows its outcome."""
        decision, entitlement = admission.decision, admission.entitlement
        if decision.crossings:
            self.notices(admission, decision.crossings)
        for limit in decision.shadowed:
            self._metrics.shadow(entitlement.plan.id, limit)
        if self.on_decision is not None:
            ok = decision.reason is Reason.OK
            text = "allow" if ok else f"allow ({decision.reason})"
            self.on_decision(_row(admission.key, entitlement, text, decision))

    def forwarded(
        self, admission: Admission, outcome: Outcome, *, internal_error: bool, record: bool = True
    ) -> str:
        """Record the outcome of an admitted request: a count and, with `record`, one event.

        Returns the outcome label of the count.
        """
        reason, entitlement = outcome.reason, admission.entitlement
        label: str = reason if reason != "ok" else admission.decision.reason
        if internal_error:
            label = INTERNAL_ERROR
        route = entitlement.route
        self._metrics.count(route.id, route.request_class, entitlement.plan.id, label)
        if not record:
            return label
        if admission.decision.overage is NO_OVERAGE and not admission.job:
            event = self._templates.fill(  # by position: that is faster
                admission.request_id,
                admission.time,
                admission.key,
                entitlement,
                admission.plan_version,
                admission.request.method,
                outcome,
                admission.clock,
                admission.ends_us,
                admission.starts_us,
            )
            if event is not None:
                self.spool.append(event)
                return label
        self.record(admission, outcome, admission.decision.overage)
        return label

    def record(
        self,
        admission: Admission,
        outcome: Outcome,
        overage: Overage,
        *,
        pending: bool = False,
    ) -> None:
        """Record the event of an admitted request.

        `pending`: the store may report overage later.
        """
        event = usage_event(
            id=admission.request_id,
            source=self._source,
            time=admission.time,
            key=admission.key,
            entitlement=admission.entitlement,
            plan_version=admission.plan_version,
            overage=overage,
            method=admission.request.method,
            outcome=outcome,
            overage_pending=pending,
            clock=admission.clock,
            periods=_periods_of(admission),
        )
        if admission.job:
            event["data"]["job"] = admission.job
        self.spool.append(event)
        self._count_overage(admission, overage)

    def overage(self, admission: Admission, overage: Overage) -> None:
        """Record overage that the event of an admitted request lacks."""
        self.spool.append(
            overage_event(
                source=self._source,
                time=admission.time,
                key=admission.key,
                entitlement=admission.entitlement,
                plan_version=admission.plan_version,
                overage=overage,
                request_id=admission.request_id,
                clock=admission.clock,
                periods=_periods_of(admission),
            )
        )
        self._count_overage(admission, overage)

    def _count_overage(self, admission: Admission, overage: Overage) -> None:
        for meter, units in overage.meters:
            self._metrics.overage(admission.entitlement.plan.id, meter, units)

    def settled(self, admission: Admission, reading: Reading) -> None:
        """Count the units of meters whose cost was known only after the response."""
        entitlement = admission.entitlement
        for meter, units in reading.values.items():
            self._metrics.settled(entitlement.plan.id, entitlement.route.id, meter, units)

    def capped(self, admission: Admission, reading: Reading) -> None:
        """Count and log the meters whose reported cost is above the most that settles."""
        for meter, reported in (reading.capped or {}).items():
            self._metrics.capped(meter)
            log.warning(
                "settled_cost_capped",
                account=admission.key.account.id,
                route=admission.entitlement.route.id,
                meter=meter,
                reported=reported,
                settled=reading.values[meter],
                request_id=admission.request_id,
            )

    def estimated(self, costs: Mapping[str, Unreadable]) -> None:
        """Count the meters whose actual cost is not known, and why."""
        for meter, why in costs.items():
            self._metrics.estimated(meter, why)

    def refused(self, refused: Refused, plan_version: str) -> None:
        """Record a refusal."""
        key, entitlement, refusal = refused.key, refused.entitlement, refused.refusal
        route = entitlement.route.id if entitlement else UNKNOWN
        request_class = entitlement.route.request_class if entitlement else UNKNOWN
        plan = entitlement.plan.id if entitlement else UNKNOWN
        self._metrics.count(route, request_class, plan, refusal.reason)
        if self._record_refusals and key is not None and self.spool.accepting:
            redis_us = self.redis_us()
            now_ns = redis_us * 1000 or self.clock.now_ns()
            self.spool.append(
                refusal_event(
                    id=refused.request_id,
                    source=self._source,
                    time=self.clock.timestamp(now_ns),
                    clock=REDIS if redis_us else NODE,
                    key=key,
                    entitlement=entitlement,
                    plan_version=plan_version,
                    status=refusal.status,
                    reason=refusal.reason,
                )
            )
        if self.on_decision is not None:
            text = f"{refusal.status} {refusal.reason}"
            self.on_decision(_row(key, entitlement, text, refused.decision))

    def deferred(self, deferred: Deferred) -> None:
        """Count a request as deferred; it is counted as a request when its job runs."""
        entitlement = deferred.entitlement
        route = entitlement.route
        self._metrics.count(route.id, route.request_class, entitlement.plan.id, Reason.DEFERRED)
        if self.on_decision is not None:
            self.on_decision(_row(deferred.key, entitlement, "202 deferred", deferred.decision))

    def notices(self, admission: Admission, crossings: Sequence[ThresholdCrossing]) -> None:
        """Record an event and a log event for each threshold."""
        for crossing in crossings:
            self.spool.append(
                notice_event(
                    source=self._source,
                    time=admission.time,
                    clock=admission.clock,
                    key=admission.key,
                    entitlement=admission.entitlement,
                    plan_version=admission.plan_version,
                    crossing=crossing,
                )
            )
            plan = admission.entitlement.plan.id
            self._metrics.crossed(plan, crossing.limit.id, crossing.percent)
            log.info(
                "threshold_crossed",
                account=admission.key.account.id,
                limit=crossing.limit.id,
                percent=crossing.percent,
            )


def _periods_of(admission: Admission) -> dict[str, str]:
    return periods_of(
        admission.entitlement.claims,
        admission.ends_us,
        admission.key.account,
        admission.starts_us,
    )


def _row(
    key: Key | None, entitlement: Entitlement | None, text: str, decision: Decision | None
) -> DecisionRow:
    tightest = decision.tightest if decision else None
    remaining = f"{tightest.remaining} ({tightest.claim.limit.id})" if tightest else UNKNOWN
    if decision and decision.violated:
        remaining = f"0 ({decision.violated[0].claim.limit.id})"
    return DecisionRow(
        key.account.id if key else UNKNOWN,
        entitlement.route.id if entitlement else UNKNOWN,
        entitlement.route.request_class if entitlement else UNKNOWN,
        text,
        remaining,
    )
