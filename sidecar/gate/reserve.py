"""reserve, decide and wait: a place in flight, all claims in one step, and another try in time."""

import time
from collections.abc import Callable
from typing import Final

from sidecar.core.answers import Answer, Hold
from sidecar.core.decision import SHED, decide, without_limits, without_store
from sidecar.core.model import MICRO, Entitlement, Key, PlanBook
from sidecar.core.overload.shedder import InFlightRequest, Shedder
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import Refusal, limit_refusal, shed_refusal, simple_refusal
from sidecar.errors import StoreUnavailable
from sidecar.gate.calls import InboundRequest
from sidecar.logs import logger
from sidecar.ports import DRAINED, LimitStore, WaitingRoom, WaitResult

log = logger("gate")

LEASE_US: Final = 30 * MICRO  # after which a sidecar that did not renew it counts as dead


class Attempt:
    """A call that asks whether it may go on. `place`: in flight, once it may; `answer`: what the
    store said last, None while it was not asked, or could not tell and need not."""

    __slots__ = ("answer", "arrival", "book", "for_job", "found", "key", "place", "request_id")

    def __init__(
        self, book: PlanBook, key: Key, found: Entitlement, request_id: str, *, for_job: bool
    ) -> None:
        self.book = book
        self.key = key
        self.found = found
        self.request_id = request_id
        self.for_job = for_job
        self.arrival = 0
        self.place: InFlightRequest | None = None
        self.answer: Answer | None = None


class Reserver:
    """Asks the store for a call, holds it in the waiting room, and keeps out what is shed.
    `observe` is told how long the store took, in seconds."""

    def __init__(
        self,
        store: LimitStore,
        room: WaitingRoom | None,
        shedder: Shedder,
        observe: Callable[[float], None],
    ) -> None:
        self._store = store
        self._room = room
        self._shedder = shedder
        self._observe = observe
        self._arrivals = 0  # calls that asked, so far

    async def reserve(self, asking: Attempt) -> Decision:
        """A place in flight and everything claimed, or why not. Raises StoreUnavailable when nobody
        can tell and the plan wants to know."""
        if not asking.arrival:
            behind = self._arrives(asking)
            if behind is not None:
                return behind
        asking.answer = None
        now = time.perf_counter()
        place = self._shedder.enter(asking.found.route, now)
        if place is None:
            return SHED
        found, key = asking.found, asking.key
        try:
            if not found.claims:
                decision = without_limits(found)
            else:
                answer = await self._store.reserve(
                    key.account,
                    key.id,
                    found.claims,
                    hold=_hold_of(asking) if found.held else None,
                    once=bool(found.estimates) or asking.for_job,
                    when_down="deny" if asking.for_job else found.when_down,
                )
                if not answer.alone:
                    self._observe(time.perf_counter() - now)
                decision = decide(found, answer)
                asking.answer = answer
        except StoreUnavailable:
            if asking.for_job or found.when_down in ("local", "deny"):
                place.leave(time.perf_counter())
                raise
            decision = without_store(found)
        except BaseException:
            place.leave(time.perf_counter())
            raise
        if decision.allowed:
            asking.place = place
        else:
            place.leave(time.perf_counter())
        return decision

    def _arrives(self, asking: Attempt) -> Decision | None:
        """The refusal of a call that others wait before. A job has a queue of its own."""
        self._arrivals = asking.arrival = self._arrivals + 1
        room = self._room
        if room is None or not room.waiting or asking.for_job:
            return None
        return room.refusal_behind_queue(asking.key, asking.found.claims)

    async def hold(self, call: InboundRequest, asking: Attempt, refused: Decision) -> WaitResult:
        """Another try after a wait, if there is room and time for it. Raises as `reserve` does."""
        room, key = self._room, asking.key
        if room is None or asking.for_job:
            return WaitResult(refused, 0, "")

        async def again() -> tuple[Decision, Answer | None]:
            decision = await self.reserve(asking)
            return decision, asking.answer

        call.waiting = True
        try:
            return await room.wait(
                key, asking.found.claims, refused, again,
                arrival=asking.arrival, size=call.size, patience_us=call.patience_us,
            )  # fmt: skip
        finally:
            call.waiting = False

    def explain(self, asking: Attempt, decision: Decision, left: str, jitter: int) -> Refusal:
        """Why the call may not go on; `left`: why it was held no more."""
        request_id = asking.request_id
        if left == DRAINED:
            return simple_refusal(Reason.DRAINING, request_id, jitter=jitter)
        if decision.reason is Reason.SHED:
            return self._shed(asking, jitter)
        return limit_refusal(
            asking.book, asking.found, asking.key.account, decision, request_id, jitter
        )

    def _shed(self, asking: Attempt, jitter: int) -> Refusal:
        shedder = self._shedder
        if shedder.pop_started():
            log.warning(
                "shedding_started",
                limit=int(shedder.limit),
                in_flight=shedder.in_flight,
            )
        wait_s = shedder.retry_after_s(asking.found.route.request_class)
        return shed_refusal(asking.found, asking.request_id, wait_s, jitter)


def _hold_of(asking: Attempt) -> Hold:
    orphans = "release" if asking.for_job else asking.found.plan.orphans  # a job runs again
    return Hold(asking.request_id, LEASE_US, orphans)
