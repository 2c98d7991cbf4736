"""Deadlines of waiting requests, with one timer for all of them.

One timer of the loop per request would need more memory than the rest of its wait.
"""

import asyncio
from heapq import heapify, heappop, heappush
from typing import Final

from sidecar.waiting.queue import Ticket

STALE: Final = 1_000  # entries of ended waits in the heap, before it is rebuilt


class Deadlines:
    """Ends waits at their deadlines, with the reason `end`."""

    def __init__(self, end: str) -> None:
        self._end = end
        self._heap: list[tuple[float, int, Ticket]] = []
        self._live = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def add(self, ticket: Ticket, loop: asyncio.AbstractEventLoop) -> None:
        """Watch a ticket."""
        self._live += 1
        heappush(self._heap, (ticket.deadline, ticket.number, ticket))
        self._arm(loop)

    def remove(self, ticket: Ticket) -> None:
        """Stop watching a ticket. Must run once for each one that was added."""
        ticket.closed = True
        self._live -= 1
        if len(self._heap) > self._live * 2 + STALE:
            self._heap = [entry for entry in self._heap if not entry[2].closed]
            heapify(self._heap)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        first = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= first:
                return
            self._timer.cancel()
        self._timer_at = first
        self._timer = loop.call_at(first, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        heap, now = self._heap, loop.time()
        while heap and (heap[0][2].closed or heap[0][0] <= now):
            heappop(heap)[2].dismiss(self._end)
        if heap:
            self._arm(loop)
