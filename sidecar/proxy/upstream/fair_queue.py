"""The queue for upstream connections: accounts take turns.

The requests of one account are served first in, first out. If its queue does not get shorter, the
order becomes last in, first out (adaptive LIFO): the newest request still has time to be served,
and the oldest will time out. So an account that floods the API delays its own requests only.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Final

STANDING_S: Final = 0.1  # a queue whose first request has waited for longer does not get shorter

Turn = asyncio.Future[None]


class FairQueue:
    """Waiting requests by account. The pool counts and wakes them."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[tuple[float, Turn]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def join(self, account: str, since: float, turn: Turn) -> None:
        """Add a request; `since` is its time of arrival."""
        self._queues.setdefault(account, deque()).append((since, turn))
        self._size += 1

    def leave(self, account: str, turn: Turn) -> None:
        """Remove a request. Idempotent; without effect after `take`."""
        queue = self._queues.get(account, ())
        entry = next((entry for entry in queue if entry[1] is turn), None)
        if entry is not None:
            self._queues[account].remove(entry)
            self._size -= 1
            if not queue:
                del self._queues[account]

    def take(self, now: float) -> Turn:
        """Remove and return the next request's turn. Raises KeyError if none waits."""
        account, queue = self._queues.popitem(last=False)
        standing = now - queue[0][0] > STANDING_S
        _, turn = queue.pop() if standing else queue.popleft()
        self._size -= 1
        if queue:
            self._queues[account] = queue  # behind all others
        return turn
