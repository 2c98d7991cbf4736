"""The queue for upstream connections: accounts take turns.

The requests of one account are served first in, first out. If its queue does not get shorter, the
order becomes last in, first out (adaptive LIFO): the newest request still has time to be served,
and the oldest will time out. So an account that floods the API delays its own requests only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

STANDING_S: Final = 0.1  # a queue whose first request has waited for longer does not get shorter

Turn = asyncio.Future[None]


class FairQueue:
    """Waiting requests by account. `Places` counts and wakes them."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, OrderedDict[Turn, float]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def accounts(self) -> list[tuple[str, int]]:
        """The accounts with waiting requests, and how many wait; the next one first."""
        return [(account, len(queue)) for account, queue in self._queues.items()]

    def join(self, account: str, since: float, turn: Turn) -> None:
        """Add a request; `since` is its time of arrival."""
        self._queues.setdefault(account, OrderedDict())[turn] = since
        self._size += 1

    def leave(self, account: str, turn: Turn) -> bool:
        """Remove a request. Returns False if it is not in the queue, as after `take`."""
        queue = self._queues.get(account)
        if queue is None or queue.pop(turn, None) is None:
            return False
        self._size -= 1
        if not queue:
            del self._queues[account]
        return True

    def take(self, now: float, may_take: Callable[[str], bool]) -> tuple[str, Turn] | None:
        """Remove and return the next request: its account and its turn.

        It is of the first account that `may_take` a connection. None without such an account.
        """
        account = next(filter(may_take, self._queues), None)
        if account is None:
            return None
        queue = self._queues[account]
        standing = now - next(iter(queue.values())) > STANDING_S
        turn, _ = queue.popitem(last=standing)
        self._size -= 1
        if queue:
            self._queues.move_to_end(account)  # behind all others
        else:
            del self._queues[account]
        return account, turn
