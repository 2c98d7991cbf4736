"""The calls that wait for one limit of one account: first come, first served.

A line tries for its first only, when the limit says that it fits; what the answer leaves free
decides how many of the next may try with it. So there is no herd and no polling, and however many
wait, the store is asked about as often as calls are let through.
"""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.model import MICRO, Claim, ConcurrencyLimit, Key, RateLimit
from sidecar.core.reasons import Decision
from sidecar.core.waits import free_units, next_try_us, refill_us, used_of

AT_ONCE: Final = 64  # tries of one line that may be on their way
ROUNDING_S: Final = 0.001  # the loop's clock has no smaller step


class Ticket:
    """One call that waits. `turn` becomes true when it may try, false when it has to leave."""

    __slots__ = ("began", "claims", "deadline", "key", "left", "line", "number", "over", "size",
                 "trying", "turn")  # fmt: skip

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
        self.number = number  # of its arrival
        self.size = size  # bytes of it that we hold
        self.deadline = deadline  # loop time
        self.trying = False
        self.left = ""  # why, once it has to go
        self.over = False  # it has gone
        self.turn: asyncio.Future[bool]
        self.line: WaitQueue

    def send_away(self, why: str) -> None:
        """End the wait, unless its turn has come."""
        if not self.turn.done():
            self.left = why
            self.turn.set_result(False)


def cost_of(claims: Sequence[Claim], limit: RateLimit | ConcurrencyLimit) -> int:
    """Units that a call asks of a limit."""
    if isinstance(limit, ConcurrencyLimit):
        return 1
    return next((claim.cost for claim in claims if claim.limit.id == limit.id), 0)


class WaitQueue:
    """Who waits for one limit, in the order of arrival."""

    def __init__(
        self,
        limit: RateLimit | ConcurrencyLimit,
        loop: asyncio.AbstractEventLoop,
        *,
        empty: Callable[[], None],
    ) -> None:
        self.limit = limit
        self.refusal: Decision | None = None  # the last, for those that there is no place for
        self._loop = loop
        self._empty = empty
        self._waiting: deque[Ticket] = deque()  # those that are not trying
        self._units = 0  # that they ask for
        self._trying = 0
        self._asked = 0  # units that those ask for that try
        self._free = 0  # units that the last answer left, less what those ask for that try
        self._next_at = 0.0  # loop time at which the first fits
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting) + self._trying

    def span_us(self, units: int) -> int:
        """Microseconds until a call that came now would have its turn, as far as can be told."""
        if isinstance(self.limit, ConcurrencyLimit) or not self._waiting:
            return 0
        first = max(0.0, self._next_at - ROUNDING_S - self._loop.time())
        behind = self._units - self._cost(self._waiting[0]) + units
        return int(first * MICRO) + refill_us(self.limit, behind)

    def join(self, ticket: Ticket, span_us: int | None) -> None:
        """Take a place. `span_us`: until this very call fits, if that was just heard."""
        ticket.line = self
        ticket.turn = self._loop.create_future()
        ticket.trying = False
        if not self._waiting or ticket.number > self._waiting[-1].number:
            self._waiting.append(ticket)
        else:  # it has waited elsewhere before
            insort(self._waiting, ticket, key=lambda other: other.number)
        self._units += self._cost(ticket)
        if self._waiting[0] is ticket and span_us is not None:
            self._free = 0
            self._next_at = self._loop.time() + span_us / MICRO + ROUNDING_S
        self._go_on()

    def tried(self, ticket: Ticket, answer: Answer | None) -> None:
        """A try is over, and this is what the store said; None when it was not asked."""
        self._end_try(ticket)
        if answer is not None:
            self.heard(ticket.claims, answer)
        else:
            self._go_on()

    def heard(self, claims: Sequence[Claim], answer: Answer) -> None:
        """What the store just said of the account's limits."""
        used = used_of(self.limit, claims, answer)
        if used is None:
            return
        self._free = max(0, free_units(self.limit, used) - self._asked)
        if self._waiting:
            span = next_try_us(self.limit, used, self._cost(self._waiting[0]))
            self._next_at = self._loop.time() + (span / MICRO + ROUNDING_S if span else 0.0)
        self._go_on()

    def leave(self, ticket: Ticket) -> None:
        """Free the place. Idempotent."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._units -= self._cost(ticket)
        self._end_try(ticket)
        self._go_on()

    def _end_try(self, ticket: Ticket) -> None:
        if ticket.trying:
            ticket.trying = False
            self._trying -= 1
            self._asked -= self._cost(ticket)

    def _go_on(self) -> None:
        """Give a turn to those that fit, and see to the next."""
        while self._waiting and self._trying < AT_ONCE and self._may_try(self._waiting[0]):
            self._give_turn(self._waiting.popleft())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and not self._trying:
            self._timer = self._loop.call_at(self._next_at, self._go_on)
        elif not self._waiting and not self._trying:
            self._empty()

    def _may_try(self, ticket: Ticket) -> bool:
        if self._trying:
            return self._cost(ticket) <= self._free
        return self._next_at <= self._loop.time()

    def _give_turn(self, ticket: Ticket) -> None:
        cost = self._cost(ticket)
        self._units -= cost
        if ticket.turn.done():  # it is about to leave
            return
        self._free = max(0, self._free - cost)
        self._trying += 1
        self._asked += cost
        ticket.trying = True
        ticket.turn.set_result(True)

    def _cost(self, ticket: Ticket) -> int:
        return cost_of(ticket.claims, self.limit)

    def dissolve(self, why: str) -> None:
        """Send away all that are not trying."""
        for ticket in self._waiting:
            ticket.send_away(why)
