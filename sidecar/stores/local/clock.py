"""Redis time while Redis is unavailable: its last answer plus the time since."""

import time
from collections.abc import Callable

from sidecar.core.kinds import MICRO


class StoreClock:
    """An estimate of Redis time, on the machine's monotonic clock, which cannot be set.

    It serves decisions of one sidecar (its local shares) and dates journal entries. Shared state
    changes by Redis' own clock, in the scripts. Until the first answer of Redis, the estimate is
    the machine's wall clock, and `is_set` is False.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.is_set = False
        self._monotonic = monotonic
        self._ahead_us = wall_us() - int(monotonic() * MICRO)

    def set(self, now_us: int) -> None:
        """Set the clock to the time that Redis has just answered."""
        self.is_set = True
        self._ahead_us = now_us - int(self._monotonic() * MICRO)

    def now_us(self) -> int:
        """Microseconds since the epoch, in Redis time."""
        return self._ahead_us + int(self._monotonic() * MICRO)
