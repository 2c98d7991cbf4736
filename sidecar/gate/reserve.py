"""reserve, decide and wait: a place in flight, all claims in one step, a new try after a wait."""

from collections.abc import Callable
from time import perf_counter
from typing import Final

from sidecar.core.answers import Answer, Hold
from sidecar.core.decision import SHED, decide, without_limits, without_store
from sidecar.core.kinds import MICRO
from sidecar.core.model import Entitlement, Key, PlanBook
from sidecar.core.overload.shedder import InFlightRequest, Shedder
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal, limit_refusal, shed_refusal, simple_refusal
from sidecar.errors import StoreUnavailable
from sidecar.gate.admission import InboundRequest
from sidecar.logs import logger
from sidecar.ports import DRAINED, LimitStore, WaitingRoom, WaitResult

log = logger("gate")

LEASE_US: Final = 30 * MICRO  # a sidecar that does not renew its leases for this long is dead


class Attempt:
    """One request's attempt to be admitted.

    `in_flight`: its place, once it is admitted. `answer`: the store's last answer; None if it was
    not asked, or was unavailable and the request is allowed anyway. `arrival`: its number in the
    order of arrival, 0 before the first try.
    """

    __slots__ = (
        "answer",
        "arrival",
        "book",
        "entitlement",
        "for_job",
        "in_flight",
        "key",
        "request_id",
    )

    def __init__(
        self, book: PlanBook, key: Key, entitlement: Entitlement, request_id: str, for_job: bool
    ) -> None:
        self.book = book
        self.key = key
        self.entitlement = entitlement
        self.request_id = request_id
        self.for_job = for_job
        self.arrival = 0
        self.in_flight: InFlightRequest | None = None
        self.answer: Answer | None = None


class Reserver:
    """Reserves for requests, lets them wait, and refuses those that are shed.

    `observe` is called with each response time of the store, in seconds.
    """

    def __init__(
        self,
        store: LimitStore,
        room: WaitingRoom | None = None,
        shedder: Shedder | None = None,
        observe: Callable[[float], None] | None = None,
    ) -> None:
        self.store = store
        self.room = room
        self.shedder = shedder or Shedder()
        self._observe = observe
        self._arrivals = 0  # requests so far

    async def reserve(self, attempt: Attempt) -> Decision:
        """Take a place in flight and all claims, or none of them.

        Raises StoreUnavailable if the store does not answer and the plan requires an answer.
        """
        if not attempt.arrival:  # a new request
            self._arrivals = attempt.arrival = self._arrivals + 1
            room = self.room
            if room is not None and room.waiting and not attempt.for_job:
                refusal = room.refusal_behind_queue(attempt.key, attempt.entitlement.claims)
                if refusal is not None:
                    return refusal
        attempt.answer = None
        now = perf_counter()
        entitlement, key = attempt.entitlement, attempt.key
        place = self.shedder.enter(entitlement.route, now, key.account.id)
        if place is None:
            return SHED
        try:
            if not entitlement.claims:
                decision = without_limits(entitlement)
            else:
                answer = await self.store.reserve(
                    key.account,
                    key.id,
                    entitlement.claims,
                    hold=_hold_of(attempt) if entitlement.stays_open else None,
                    once=bool(entitlement.estimates) or attempt.for_job,
                    when_down="deny" if attempt.for_job else entitlement.when_down,
                )
                if self._observe is not None and not answer.local:
                    self._observe(perf_counter() - now)
                decision = decide(entitlement, answer)
                attempt.answer = answer
        except StoreUnavailable:
            if attempt.for_job or entitlement.when_down in ("local", "deny"):
                place.leave(perf_counter())
                raise
            decision = without_store(entitlement)
        except BaseException:
            place.leave(perf_counter())
            raise
        if decision.allowed:
            attempt.in_flight = place
        else:
            place.leave(perf_counter())
        return decision

    async def wait(
        self, request: InboundRequest, attempt: Attempt, refused: Decision
    ) -> WaitResult:
        """Wait and try again, if there is room and time for that. Raises as `reserve` does."""
        room, key = self.room, attempt.key
        if room is None or attempt.for_job:
            return WaitResult(refused, 0, "")

        async def again() -> tuple[Decision, Answer | None]:
            decision = await self.reserve(attempt)
            return decision, attempt.answer

        request.waiting = True
        try:
            return await room.wait(
                key,
                attempt.entitlement.claims,
                refused,
                again,
                arrival=attempt.arrival,
                size=request.size,
                patience_us=request.patience_us,
            )
        finally:
            request.waiting = False

    def refusal(self, attempt: Attempt, decision: Decision, end: str, jitter: int) -> Refusal:
        """Return the answer to a refused request. `end`: why its wait ended."""
        request_id = attempt.request_id
        if end == DRAINED:
            return simple_refusal(Reason.DRAINING, request_id, jitter=jitter)
        if decision.reason is Reason.SHED:
            return self._shed(attempt, jitter)
        account = attempt.key.account
        return limit_refusal(
            attempt.book, attempt.entitlement, account, decision, request_id, jitter
        )

    def _shed(self, attempt: Attempt, jitter: int) -> Refusal:
        shedder = self.shedder
        if shedder.pop_started():
            log.warning(
                "shedding_started",
                limit=int(shedder.limit),
                in_flight=shedder.in_flight,
            )
        request_class = attempt.entitlement.route.request_class
        wait_s = shedder.retry_after_s(request_class)
        by_share = not shedder.is_full(request_class, perf_counter())
        return shed_refusal(
            attempt.entitlement, attempt.request_id, wait_s, jitter, by_share=by_share
        )


def _hold_of(attempt: Attempt) -> Hold:
    # A job whose sidecar died runs again, so its reservation is released.
    orphans = "release" if attempt.for_job else attempt.entitlement.plan.orphans
    late = attempt.entitlement.late_overage
    return Hold(attempt.request_id, LEASE_US, orphans, late=late)
