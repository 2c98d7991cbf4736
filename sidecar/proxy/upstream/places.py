"""The places for connections: counted, shared between accounts, and waited for.

A place is held from the moment that a request gets it until its connection is idle or closed:
while it is promised to a request that waited, while its connection opens, and while it is used.

The law of shares: an account gets a place only while it holds less than `percent` of the places
that other accounts leave. So no number of accounts can take all: at 50 %, one account gets half of
the places, two get a third each, and `n` leave 1 / (n + 1) to the next one. Critical requests are
counted apart, and `reserved` places are only for them.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from sidecar.core.model import RequestClass
from sidecar.proxy.upstream.fair_queue import FairQueue, Turn

CRITICAL: Final = 0
STANDARD: Final = 1
DEFERRABLE: Final = 2
KINDS: Final = {
    RequestClass.CRITICAL: CRITICAL,
    RequestClass.STANDARD: STANDARD,
    RequestClass.DEFERRABLE: DEFERRABLE,
}


class Places:
    """At most `limit` places. No request waits while there is a place for it."""

    def __init__(self, limit: int, reserved: int, percent: int, now: Callable[[], float]) -> None:
        self.limit = limit
        self.taken = 0
        self.waiting = 0  # requests that wait for a place
        self.promised = 0  # places of requests that waited, and do not know it yet
        self._shared = limit - min(reserved, limit - 1)
        self._percent = percent
        self._now = now
        self._critical: dict[str, int] = {}  # places by account
        self._others: dict[str, int] = {}
        self._queues = (FairQueue(), FairQueue(), FairQueue())

    def __repr__(self) -> str:
        return (
            f"<Places: {self.taken} of {self.limit} taken, {self.promised} of them promised; "
            f"{self.waiting} requests wait>"
        )

    def take(self, account: str, critical: bool) -> bool:
        """Take a place for this account. Returns False if it can get none now."""
        taken = self.taken
        if critical:
            held, free = self._critical, self.limit - taken
        else:
            held, free = self._others, self._shared - taken
        if free <= 0:
            return False
        own = 0
        if account in held:
            own = held[account]
            if own * (100 - self._percent) >= free * self._percent:
                return False  # as `_may_take`, without a call for each request
        held[account] = own + 1
        self.taken = taken + 1
        return True

    def free(self, account: str, critical: bool) -> None:
        """Free a place, and promise it to the next request that waits."""
        held = self._critical if critical else self._others
        own = held[account] - 1
        if own:
            held[account] = own
        else:
            del held[account]
        self.taken -= 1
        if self.waiting:
            self._promise()

    def held(self, account: str, *, critical: bool) -> int:
        """How many places an account holds."""
        return (self._critical if critical else self._others).get(account, 0)

    def is_full(self, *, critical: bool) -> bool:
        """Whether all places are taken."""
        return self.taken >= (self.limit if critical else self._shared)

    def waiting_accounts(self, *, critical: bool) -> list[tuple[str, int]]:
        """The accounts with waiting requests, and how many wait."""
        kinds = (CRITICAL,) if critical else (STANDARD, DEFERRABLE)
        return [entry for kind in kinds for entry in self._queues[kind].accounts]

    async def wait(self, account: str, kind: int, until: float) -> None:
        """Wait for a place, and take it: critical requests first, deferrable ones last.

        Accounts take turns. Raises TimeoutError at loop time `until`. No place is taken then.
        """
        turn: Turn = asyncio.get_running_loop().create_future()
        queue = self._queues[kind]
        queue.join(account, self._now(), turn)
        self.waiting += 1
        has_place = False
        try:
            async with asyncio.timeout_at(until):
                await turn
            has_place = True
        finally:
            if queue.leave(account, turn):
                self.waiting -= 1
            if turn.done() and not turn.cancelled():
                self.promised -= 1
                if not has_place:  # cancelled at the moment of its turn
                    self.free(account, critical=kind == CRITICAL)

    def _promise(self) -> None:
        """Promise free places to requests that wait."""
        for kind, queue in enumerate(self._queues):
            critical = kind == CRITICAL
            while queue and not self.is_full(critical=critical):
                found = queue.take(
                    self._now(), self._may_take_critical if critical else self._may_take_other
                )
                if found is None:
                    break
                account, turn = found
                self.waiting -= 1
                if not turn.done() and self.take(account, critical=critical):
                    self.promised += 1
                    turn.set_result(None)

    def _may_take_critical(self, account: str) -> bool:
        return self._may_take(self._critical.get(account, 0), self.limit - self.taken)

    def _may_take_other(self, account: str) -> bool:
        return self._may_take(self._others.get(account, 0), self._shared - self.taken)

    def _may_take(self, own: int, free: int) -> bool:
        """The law of shares, for an account that holds `own` places."""
        return free > 0 and own * (100 - self._percent) < free * self._percent
