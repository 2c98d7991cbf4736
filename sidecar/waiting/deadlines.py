"""When each waiting call loses patience: one timer for all of them.

A timer of the loop for each would cost more memory than all the rest of what waits.
"""

import asyncio
from heapq import heapify, heappop, heappush
from typing import Final

from sidecar.waiting.queue import Ticket

STALE: Final = 1_000  # entries of calls that have left, before the heap is cleared of them


class Deadlines:
    """Sends tickets away at their deadlines."""

    def __init__(self, why: str) -> None:
        self._why = why
        self._heap: list[tuple[float, int, Ticket]] = []
        self._live = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def add(self, ticket: Ticket, loop: asyncio.AbstractEventLoop) -> None:
        """Mind this one too."""
        self._live += 1
        heappush(self._heap, (ticket.deadline, ticket.number, ticket))
        self._wind(loop)

    def drop(self, ticket: Ticket) -> None:
        """It has left. Called once for each that was added."""
        ticket.over = True
        self._live -= 1
        if len(self._heap) > self._live * 2 + STALE:
            self._heap = [entry for entry in self._heap if not entry[2].over]
            heapify(self._heap)

    def _wind(self, loop: asyncio.AbstractEventLoop) -> None:
        first = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= first:
                return
            self._timer.cancel()
        self._timer_at = first
        self._timer = loop.call_at(first, self._due, loop)

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        heap, now = self._heap, loop.time()
        while heap and (heap[0][2].over or heap[0][0] <= now):
            heappop(heap)[2].send_away(self._why)
        if heap:
            self._wind(loop)
