"""Redis' clock while Redis cannot be asked: its last answer, carried on by how long that is ago."""

import time
from collections.abc import Callable

from sidecar.core.model import MICRO


class StoreClock:
    """Reckons by the machine's monotonic clock, which nobody can set.

    This is for what one sidecar decides alone (its shares) and to say which period a call was in.
    What all sidecars share is decided by Redis' own clock, in the scripts. Before the first answer
    there is nothing but this machine's clock to go by.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._monotonic = monotonic
        self._ahead_us = wall_us() - int(monotonic() * MICRO)

    def heard(self, now_us: int) -> None:
        """Redis has just said what time it is there."""
        self._ahead_us = now_us - int(self._monotonic() * MICRO)

    def now_us(self) -> int:
        """Microseconds since the epoch, as Redis would say."""
        return self._ahead_us + int(self._monotonic() * MICRO)
