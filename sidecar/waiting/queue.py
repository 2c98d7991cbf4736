"""The wait queue of one limit of one account: first come, first served.

Only the first request tries, when the limit says that it fits. The units that the store's answer
leaves decide how many of the next may try with it. Requests that wait do not poll, so the
store is asked about as often as requests are allowed, however many wait.
"""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.kinds import MICRO, SLOTS, ConcurrencyLimit, RefillLimit
from sidecar.core.model import Claim, Key
from sidecar.core.reasons import Decision
from sidecar.core.waits import free_units, next_try_us, refill_us, used_of

AT_ONCE: Final = 64  # concurrent tries of one queue
ROUNDING_S: Final = 0.001  # resolution of the loop's clock


class Ticket:
    """One waiting request. `ready` becomes true when it may try, false when its wait ends."""

    __slots__ = (
        "began", "claims", "closed", "deadline", "end", "key", "number", "queue", "ready", "size",
        "trying",
    )  # fmt: skip

    def __init__(
        self,
        key: Key,
        claims: Sequence[Claim],
        number: int,
        size: int,
        began: float,
        deadline: float,
    ) -> None:
        self.key = key
        self.claims = claims
        self.began = began  # loop time
        self.number = number  # order of arrival
        self.size = size  # bytes in memory
        self.deadline = deadline  # loop time
        self.trying = False
        self.end = ""  # why the wait ends
        self.closed = False  # the wait has ended
        self.ready: asyncio.Future[bool]
        self.queue: WaitQueue

    def dismiss(self, end: str) -> None:
        """End the wait, unless the request may try already."""
        if not self.ready.done():
            self.end = end
            self.ready.set_result(False)


def cost_of(claims: Sequence[Claim], limit: RefillLimit) -> int:
    """Return the units of a limit that these claims ask for."""
    if limit.kind is SLOTS:
        return 1
    return next((claim.cost for claim in claims if claim.limit.id == limit.id), 0)


class WaitQueue:
    """Requests that wait for one limit, in order of arrival.

    `on_empty` is called when the last one has left.
    """

    def __init__(
        self,
        limit: RefillLimit,
        loop: asyncio.AbstractEventLoop,
        *,
        on_empty: Callable[[], None],
    ) -> None:
        self.limit = limit
        self.refusal: Decision | None = None  # the last one, for requests that must not wait
        self._loop = loop
        self._on_empty = on_empty
        self._waiting: deque[Ticket] = deque()  # without those that try
        self._waiting_units = 0
        self._trying = 0
        self._trying_units = 0
        self._free = 0  # units that the last answer left, less those of later tries
        self._next_at = 0.0  # loop time at which the first fits
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting) + self._trying

    def wait_us(self, units: int) -> int:
        """Return the estimated wait of a new request that asks for so many units, in µs."""
        if isinstance(self.limit, ConcurrencyLimit) or not self._waiting:
            return 0
        first = max(0.0, self._next_at - ROUNDING_S - self._loop.time())
        behind = self._waiting_units - self._cost(self._waiting[0]) + units
        return int(first * MICRO) + refill_us(self.limit, behind)

    def join(self, ticket: Ticket, wait_us: int | None) -> None:
        """Queue a request. `wait_us`: the store's fresh answer, if there is one."""
        ticket.queue = self
        ticket.ready = self._loop.create_future()
        ticket.trying = False
        if not self._waiting or ticket.number > self._waiting[-1].number:
            self._waiting.append(ticket)
        else:  # it has waited in another queue
            insort(self._waiting, ticket, key=lambda other: other.number)
        self._waiting_units += self._cost(ticket)
        if self._waiting[0] is ticket and wait_us is not None:
            self._free = 0
            self._next_at = self._loop.time() + wait_us / MICRO + ROUNDING_S
        self._dispatch()

    def finish_try(self, ticket: Ticket, answer: Answer | None) -> None:
        """End a try. `answer` is the store's; None if it was not asked."""
        self._end_try(ticket)
        if answer is not None:
            self.update(ticket.claims, answer)
        else:
            self._dispatch()

    def update(self, claims: Sequence[Claim], answer: Answer) -> None:
        """Start the tries that fit after an answer of the store."""
        used = used_of(self.limit, claims, answer)
        if used is None:
            return
        self._free = max(0, free_units(self.limit, used) - self._trying_units)
        if self._waiting:
            wait_us = next_try_us(self.limit, used, self._cost(self._waiting[0]))
            self._next_at = self._loop.time() + (wait_us / MICRO + ROUNDING_S if wait_us else 0.0)
        self._dispatch()

    def leave(self, ticket: Ticket) -> None:
        """Remove a request. Idempotent."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._waiting_units -= self._cost(ticket)
        self._end_try(ticket)
        self._dispatch()

    def dismiss_all(self, end: str) -> None:
        """End the waits of all requests that do not try."""
        for ticket in self._waiting:
            ticket.dismiss(end)

    def _end_try(self, ticket: Ticket) -> None:
        if ticket.trying:
            ticket.trying = False
            self._trying -= 1
            self._trying_units -= self._cost(ticket)

    def _dispatch(self) -> None:
        """Start the tries that fit, and set the timer for the next one."""
        while self._waiting and self._trying < AT_ONCE and self._may_try(self._waiting[0]):
            self._start_try(self._waiting.popleft())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and not self._trying:
            self._timer = self._loop.call_at(self._next_at, self._dispatch)
        elif not self._waiting and not self._trying:
            self._on_empty()

    def _may_try(self, ticket: Ticket) -> bool:
        if self._trying:
            return self._cost(ticket) <= self._free
        return self._next_at <= self._loop.time()

    def _start_try(self, ticket: Ticket) -> None:
        cost = self._cost(ticket)
        self._waiting_units -= cost
        if ticket.ready.done():  # it is about to leave
            return
        self._free = max(0, self._free - cost)
        self._trying += 1
        self._trying_units += cost
        ticket.trying = True
        ticket.ready.set_result(True)

    def _cost(self, ticket: Ticket) -> int:
        return cost_of(ticket.claims, self.limit)
