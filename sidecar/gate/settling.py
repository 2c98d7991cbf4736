"""settle → record for requests whose reservation stays open."""

from collections.abc import Callable

from sidecar.core.answers import Answer
from sidecar.core.decision import crossings_of, overage_of
from sidecar.core.reasons import NO_OVERAGE, Overage, Reason
from sidecar.core.settlement import Outcome, actual_claims, refunded
from sidecar.gate.admission import Admission
from sidecar.gate.recorder import Recorder
from sidecar.gate.reserve import Reserver
from sidecar.ports import Trace

OnRecorded = Callable[[Exception | None], None]


class Settling:
    """One request's settlement, until the store has confirmed it.

    If the request's overage is known only then, its event waits for the store's answer. If the
    store does not answer in time, the event is recorded without overage, and what the later answer
    reports becomes an event of its own.
    """

    __slots__ = (
        "_admission", "_on_recorded", "_outcome", "_recorded", "_recorder", "_reserver", "_started",
        "_trace", "claims",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        reserver: Reserver,
        admission: Admission,
        outcome: Outcome,
        on_recorded: OnRecorded | None,
    ) -> None:
        self._recorder = recorder
        self._reserver = reserver
        self._admission = admission
        self._outcome = outcome
        self._on_recorded = on_recorded
        self._recorded = not admission.late_overage  # by the gate
        self.claims = actual_claims(admission.entitlement, outcome)
        self._trace: Trace | None = None
        self._started = 0.0

    def trace_until_settled(self, trace: Trace, started: float) -> None:
        """Record a span, from `started` until the store confirms or does not answer."""
        self._trace, self._started = trace, started

    def start(self) -> None:
        """Send the settlement to the store."""
        admission = self._admission
        self._reserver.store.settle(
            admission.key.account,
            admission.key.id,
            self.claims,
            admission.request_id,
            self._on_settled,
            billed=not refunded(admission.entitlement, self._outcome),
        )

    def _on_settled(self, answer: Answer | None) -> None:
        trace = self._trace
        if trace is not None:
            self._trace = None
            outcome = "" if answer is not None else Reason.STORE_UNAVAILABLE
            trace.span("settle", self._started, outcome, failed=answer is None)
        late = self._admission.late_overage
        if late:
            overage = NO_OVERAGE if answer is None else overage_of(self.claims, answer)
            if not self._recorded:
                self._record(overage, pending=answer is None)
            elif overage.limits:
                self._recorder.overage(self._admission, overage)
        if answer is None or not answer.granted:
            return
        room = self._reserver.room
        if room is not None and room.waiting:
            room.update(self._admission.key, self.claims, answer)
        crossings = crossings_of(self.claims, answer)
        if crossings:
            self._recorder.notices(self._admission, crossings)

    def _record(self, overage: Overage, *, pending: bool) -> None:
        self._recorded = True
        failure: Exception | None = None
        try:
            self._recorder.record(self._admission, self._outcome, overage, pending=pending)
            self._recorder.spool.in_flight[0] -= 1
        except Exception as error:
            if self._on_recorded is None:
                raise
            failure = error
        if self._on_recorded is not None:
            self._on_recorded(failure)
