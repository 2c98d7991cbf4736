"""The waiting room: calls that a rate or a concurrency limit refuses now and fits soon.

A call waits in the line of the limit that takes longest to recover, tries again when that says
that it fits, and changes the line when another limit is in its way then. Accounts never stand
behind each other: each has lines of its own, and every line one place at the store at a time.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.model import MICRO, Claim, ConcurrencyLimit, Key, RateLimit
from sidecar.core.reasons import Decision, Wait
from sidecar.ports import DRAINED, Try, WaitResult
from sidecar.waiting.deadlines import Deadlines
from sidecar.waiting.queue import Ticket, WaitQueue, cost_of

GRACE_S: Final = 0.05  # for a turn that is due in the very moment in which the patience ends
SERVED: Final = "served"
REFUSED: Final = "refused"  # for a limit that lets nobody wait, or the store was lost
TIMED_OUT: Final = "timed-out"
GONE: Final = "gone"
WHYS: Final = (SERVED, REFUSED, TIMED_OUT, GONE, DRAINED)

_Where = tuple[str, str, str]  # account, key ("" for a limit per account), limit


class WaitingRoom:
    """Keeps `ports.WaitingRoom`. `most` calls, and `most_bytes` of what they have sent, may wait;
    an account may have as much of both as is still free, so one alone gets half of the room and
    there is always a place for another (dynamic thresholds, Choudhury and Hahne 1998)."""

    def __init__(
        self, *, most: int, most_bytes: int, observe: Callable[[float], None] | None = None
    ) -> None:
        self.waiting = 0  # calls
        self.bytes = 0
        self.left = dict.fromkeys(WHYS, 0)  # why calls left, counted
        self.turned_away = 0  # calls that there was no place for
        self._most = most
        self._most_bytes = most_bytes
        self._observe = observe
        self._lines: dict[_Where, WaitQueue] = {}
        self._of_account: dict[str, tuple[int, int]] = {}  # calls, bytes
        self._deadlines = Deadlines(TIMED_OUT)
        self._closed = False

    def ahead(self, key: Key, claims: Sequence[Claim]) -> Decision | None:
        """What a new call with these claims has to expect when others wait for the same: to wait
        behind them. None when there are none."""
        for claim in claims:
            limit = claim.limit
            if claim.forced or not isinstance(limit, RateLimit | ConcurrencyLimit):
                continue
            line = self._lines.get(_where(key, limit))
            if line is None or line.refusal is None:
                continue
            span_us = max(1, line.span_us(claim.cost))
            wait = Wait(limit, span_us, limit.max_wait_us)
            return line.refusal._replace(wait=wait, retry_us=span_us)
        return None

    def hold(
        self,
        key: Key,
        claims: Sequence[Claim],
        decision: Decision,
        attempt: Try,
        *,
        arrival: int,
        size: int = 0,
        patience_us: int | None = None,
    ) -> Coroutine[None, None, WaitResult]:
        """Hold a call that was refused until it may go on or has to go; see the port."""
        wait = decision.wait
        assert wait is not None  # noqa: S101 - else there is nothing to wait for
        patience = wait.patience_us if patience_us is None else min(wait.patience_us, patience_us)
        span_us = max(wait.span_us, self._behind_us(key, wait.limit, claims))
        if span_us > patience or not self._has_room(key.account.id, size):
            return _at_once(WaitResult(decision._replace(retry_us=span_us), 0, ""))
        now = asyncio.get_running_loop().time()
        deadline = now + patience / MICRO + GRACE_S
        ticket = Ticket(key, claims, arrival, size, now, deadline)
        ticket.left = REFUSED  # where a try fails
        return self._held(ticket, decision, attempt)

    # What a call keeps here while it waits is what a waiting room costs: few and small frames.
    async def _held(self, ticket: Ticket, decision: Decision, attempt: Try) -> WaitResult:
        self._enter(ticket, decision)
        try:
            while await ticket.turn:
                decision, answer = await attempt()
                ticket.line.tried(ticket, answer)
                verdict = self._verdict(ticket, decision)
                if verdict:
                    ticket.left = verdict
                    break
        except asyncio.CancelledError:
            ticket.left = GONE
            raise
        finally:
            waited = self._let_go(ticket)
        return WaitResult(decision, int(waited * MICRO), ticket.left)

    def _verdict(self, ticket: Ticket, decision: Decision) -> str:
        """Why the call waits no longer, after a try; "" when it waits on."""
        wait = decision.wait
        if decision.allowed:
            return SERVED
        if wait is None:
            return REFUSED
        now = asyncio.get_running_loop().time()
        if now + wait.span_us / MICRO > ticket.deadline:
            return TIMED_OUT
        self._line(ticket.key, decision, wait.limit).join(ticket, wait.span_us)
        return ""

    def _behind_us(
        self, key: Key, limit: RateLimit | ConcurrencyLimit, claims: Sequence[Claim]
    ) -> int:
        """How long it takes until a call has its turn behind those that wait already."""
        line = self._lines.get(_where(key, limit))
        return 0 if line is None else line.span_us(cost_of(claims, limit))

    def _has_room(self, account: str, size: int) -> bool:
        calls, taken = self._of_account.get(account, (0, 0))
        fits = (
            not self._closed
            and calls < self._most - self.waiting
            and taken + size <= self._most_bytes - self.bytes - size
        )
        self.turned_away += not fits
        return fits

    def _enter(self, ticket: Ticket, decision: Decision) -> None:
        wait = decision.wait
        assert wait is not None  # noqa: S101 - `hold` looked
        self._count(ticket, 1)
        line = self._line(ticket.key, decision, wait.limit)
        line.join(ticket, None if len(line) else wait.span_us)
        self._deadlines.add(ticket, asyncio.get_running_loop())

    def _line(self, key: Key, refusal: Decision, limit: RateLimit | ConcurrencyLimit) -> WaitQueue:
        where = _where(key, limit)
        line = self._lines.get(where)
        if line is None:
            loop = asyncio.get_running_loop()
            line = WaitQueue(limit, loop, empty=lambda: self._close_line(where))
            self._lines[where] = line
        line.refusal = refusal
        return line

    def _close_line(self, where: _Where) -> None:
        self._lines.pop(where, None)

    def _let_go(self, ticket: Ticket) -> float:
        """Returns for how many seconds it was held."""
        self._deadlines.drop(ticket)
        ticket.line.leave(ticket)
        self._count(ticket, -1)
        self.left[ticket.left] += 1
        waited = asyncio.get_running_loop().time() - ticket.began
        if self._observe is not None:
            self._observe(waited)
        return waited

    def _count(self, ticket: Ticket, sign: int) -> None:
        self.waiting += sign
        self.bytes += sign * ticket.size
        calls, taken = self._of_account.get(ticket.key.account.id, (0, 0))
        if calls + sign:
            self._of_account[ticket.key.account.id] = (calls + sign, taken + sign * ticket.size)
        else:
            del self._of_account[ticket.key.account.id]

    def heard(self, key: Key, claims: Sequence[Claim], answer: Answer) -> None:
        """What the store says of an account's limits after a settlement: a slot may be free."""
        for claim in claims:
            if not isinstance(claim.limit, RateLimit | ConcurrencyLimit):
                continue
            line = self._lines.get(_where(key, claim.limit))
            if line is not None:
                line.heard(claims, answer)

    def close(self) -> None:
        """Send away whoever waits, and take nobody any more. Idempotent."""
        self._closed = True
        for line in tuple(self._lines.values()):
            line.dissolve(DRAINED)


def _where(key: Key, limit: RateLimit | ConcurrencyLimit) -> _Where:
    return key.account.id, key.id if limit.per == "key" else "", limit.id


async def _at_once(held: WaitResult) -> WaitResult:
    return held
