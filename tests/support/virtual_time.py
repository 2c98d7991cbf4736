"""An event loop with a virtual clock, which only moves from one timer to the next."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop that runs hours in milliseconds, always in the same order."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            first = self._scheduled[0]
            if first._cancelled:  # the loop would really wait for the one after it
                live = (timer for timer in self._scheduled if not timer._cancelled)
                first = min(live, default=first)
            self._now = max(self._now, first._when)
        super()._run_once()


def in_virtual_time(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work` on its own virtual loop, and return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
