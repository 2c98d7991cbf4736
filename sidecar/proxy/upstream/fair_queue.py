"""Who is next when there are more calls than connections: accounts take turns.

Among themselves the calls of an account are served first come, first served, unless their queue
does not get shorter: then whoever came last still has the time to be served, and the others will
give up (adaptive LIFO). So an account that floods the API waits for itself, and nobody for it.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Final

STANDING_S: Final = 0.1  # a queue whose first has waited for longer does not get shorter

Turn = asyncio.Future[None]


class FairQueue:
    """Calls that wait, by account. Counts nothing and wakes nobody by itself."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[tuple[float, Turn]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def join(self, account: str, since: float, turn: Turn) -> None:
        """Wait for a turn; `since` is the time of arrival."""
        self._queues.setdefault(account, deque()).append((since, turn))
        self._size += 1

    def leave(self, account: str, turn: Turn) -> None:
        """Wait no longer. Idempotent; nothing for who has been taken."""
        queue = self._queues.get(account, ())
        place = next((one for one in queue if one[1] is turn), None)
        if place is not None:
            self._queues[account].remove(place)
            self._size -= 1
            if not queue:
                del self._queues[account]

    def take(self, now: float) -> Turn:
        """Whose turn it is; it waits no longer. Raises KeyError when nobody waits."""
        account, queue = self._queues.popitem(last=False)
        standing = now - queue[0][0] > STANDING_S
        _, turn = queue.pop() if standing else queue.popleft()
        self._size -= 1
        if queue:
            self._queues[account] = queue  # behind all others
        return turn
