"""The wait queues of all accounts, and the bounds that they share.

A request waits in the queue of the limit that takes longest to recover, and tries again when that
limit says that it fits. If another limit refuses it then, it changes the queue. Accounts never
delay each other: each has its own queues.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.kinds import MICRO, RefillLimit
from sidecar.core.model import Claim, Key
from sidecar.core.reasons import Decision, Wait
from sidecar.ports import DRAINED, Retry, WaitResult
from sidecar.waiting.deadlines import Deadlines
from sidecar.waiting.queue import Ticket, WaitQueue, cost_of

GRACE_S: Final = 0.05  # for a try that is due at the very end of the patience
SERVED: Final = "served"
REFUSED: Final = "refused"  # by a limit without a wait, or the store was unavailable
TIMED_OUT: Final = "timed-out"
GONE: Final = "gone"  # the client has left
ENDS: Final = (SERVED, REFUSED, TIMED_OUT, GONE, DRAINED)

_QueueId = tuple[str, str, str]  # account, key ("" for a limit per account), limit


class WaitingRoom:
    """Implements `ports.WaitingRoom`.

    At most `max_requests` wait, with at most `max_bytes` in memory. An account may have as much of
    both as is still free. So one account alone gets half, and another always finds free capacity
    (dynamic thresholds, Choudhury and Hahne 1998). `observe` gets the length of each wait in
    seconds.
    """

    def __init__(
        self,
        *,
        max_requests: int,
        max_bytes: int,
        observe: Callable[[float], None] | None = None,
    ) -> None:
        self.waiting = 0
        self.bytes = 0
        self.ended = dict.fromkeys(ENDS, 0)  # waits, by their end
        self.overflows = 0  # requests that did not wait, since the queues were full
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._observe = observe
        self._queues: dict[_QueueId, WaitQueue] = {}
        self._of_account: dict[str, tuple[int, int]] = {}  # requests, bytes
        self._deadlines = Deadlines(TIMED_OUT)
        self._closed = False

    def refusal_behind_queue(self, key: Key, claims: Sequence[Claim]) -> Decision | None:
        """Implements `ports.WaitingRoom`."""
        for claim in claims:
            limit = claim.limit
            if claim.forced or not isinstance(limit, RefillLimit):
                continue
            queue = self._queues.get(_queue_id(key, limit))
            if queue is None or queue.refusal is None:
                continue
            span_us = max(1, queue.wait_us(claim.cost))
            wait = Wait(limit, span_us, limit.max_wait_us)
            return queue.refusal._replace(wait=wait, retry_us=span_us)
        return None

    def wait(
        self,
        key: Key,
        claims: Sequence[Claim],
        decision: Decision,
        retry: Retry,
        *,
        arrival: int,
        size: int = 0,
        patience_us: int | None = None,
    ) -> Coroutine[None, None, WaitResult]:
        """Implements `ports.WaitingRoom`."""
        wait = decision.wait
        if wait is None:
            return _resolved(WaitResult(decision, 0, ""))
        patience = wait.patience_us if patience_us is None else min(wait.patience_us, patience_us)
        queue = self._queues.get(_queue_id(key, wait.limit))
        behind_us = 0 if queue is None else queue.wait_us(cost_of(claims, wait.limit))
        span_us = max(wait.span_us, behind_us)
        if span_us > patience or not self._fits(key.account.id, size):
            return _resolved(WaitResult(decision._replace(retry_us=span_us), 0, ""))
        now = asyncio.get_running_loop().time()
        deadline = now + patience / MICRO + GRACE_S
        ticket = Ticket(key, claims, arrival, size, now, deadline)
        ticket.end = REFUSED  # unless a try returns
        return self._wait(ticket, decision, wait, retry)

    # Frames of waiting requests are the memory that waiting costs: keep them few and small.
    async def _wait(
        self, ticket: Ticket, decision: Decision, wait: Wait, retry: Retry
    ) -> WaitResult:
        self._enter(ticket, decision, wait)
        try:
            while await ticket.ready:
                decision, answer = await retry()
                ticket.queue.finish_try(ticket, answer)
                end = self._end_of(ticket, decision)
                if end:
                    ticket.end = end
                    break
        except asyncio.CancelledError:
            ticket.end = GONE
            raise
        finally:
            waited_s = self._leave(ticket)
        return WaitResult(decision, int(waited_s * MICRO), ticket.end)

    def _end_of(self, ticket: Ticket, decision: Decision) -> str:
        """Return why the wait ends after a try; "" if the request is queued again."""
        wait = decision.wait
        if decision.allowed:
            return SERVED
        if wait is None:
            return REFUSED
        now = asyncio.get_running_loop().time()
        if now + wait.span_us / MICRO > ticket.deadline:
            return TIMED_OUT
        self._queue(ticket.key, decision, wait.limit).join(ticket, wait.span_us)
        return ""

    def _fits(self, account: str, size: int) -> bool:
        requests, taken = self._of_account.get(account, (0, 0))
        fits = (
            not self._closed
            and requests < self._max_requests - self.waiting
            and taken + size <= self._max_bytes - self.bytes - size
        )
        self.overflows += not fits
        return fits

    def _enter(self, ticket: Ticket, decision: Decision, wait: Wait) -> None:
        self._count(ticket, 1)
        queue = self._queue(ticket.key, decision, wait.limit)
        queue.join(ticket, None if len(queue) else wait.span_us)
        self._deadlines.add(ticket, asyncio.get_running_loop())

    def _queue(self, key: Key, refusal: Decision, limit: RefillLimit) -> WaitQueue:
        queue_id = _queue_id(key, limit)
        queue = self._queues.get(queue_id)
        if queue is None:
            loop = asyncio.get_running_loop()
            queue = WaitQueue(limit, loop, on_empty=lambda: self._remove_queue(queue_id))
            self._queues[queue_id] = queue
        queue.refusal = refusal
        return queue

    def _remove_queue(self, queue_id: _QueueId) -> None:
        self._queues.pop(queue_id, None)

    def _leave(self, ticket: Ticket) -> float:
        """Return the length of the wait in seconds."""
        self._deadlines.remove(ticket)
        ticket.queue.leave(ticket)
        self._count(ticket, -1)
        self.ended[ticket.end] += 1
        waited_s = asyncio.get_running_loop().time() - ticket.began
        if self._observe is not None:
            self._observe(waited_s)
        return waited_s

    def _count(self, ticket: Ticket, sign: int) -> None:
        self.waiting += sign
        self.bytes += sign * ticket.size
        requests, taken = self._of_account.get(ticket.key.account.id, (0, 0))
        if requests + sign:
            self._of_account[ticket.key.account.id] = (requests + sign, taken + sign * ticket.size)
        else:
            del self._of_account[ticket.key.account.id]

    def update(self, key: Key, claims: Sequence[Claim], answer: Answer) -> None:
        """Implements `ports.WaitingRoom`: after a settlement, a slot may be free."""
        for claim in claims:
            if not isinstance(claim.limit, RefillLimit):
                continue
            queue = self._queues.get(_queue_id(key, claim.limit))
            if queue is not None:
                queue.update(claims, answer)

    def close(self) -> None:
        """End all waits, and queue no more requests. Idempotent."""
        self._closed = True
        for queue in tuple(self._queues.values()):
            queue.dismiss_all(DRAINED)


def _queue_id(key: Key, limit: RefillLimit) -> _QueueId:
    return key.account.id, key.id if limit.per == "key" else "", limit.id


async def _resolved(result: WaitResult) -> WaitResult:
    return result
