"""Checks twice a second that the files of a spool are in place, also while no event is written."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from sidecar.metering.writer import SegmentWriter

_INTERVAL_S: Final = 0.5


class FileWatch:
    """Runs the writer's check on a thread; `on_missing` gets what it raises, on the loop.

    A span in which the writer has checked its files itself needs no other check.
    """

    def __init__(
        self, thread: Executor, writer: SegmentWriter, on_missing: Callable[[OSError], None]
    ) -> None:
        self._thread = thread
        self._writer = writer
        self._checks = 0
        self._on_missing = on_missing
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Check after a second, and then again. Needs a running loop."""
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL_S, self._run)

    def stop(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        writer = self._writer
        if writer.checks == self._checks:
            loop = asyncio.get_running_loop()
            checked = loop.run_in_executor(self._thread, writer.check)
            checked.add_done_callback(self._checked)
        self._checks = writer.checks
        self.start()

    def _checked(self, result: asyncio.Future[None]) -> None:
        error = result.exception()
        if isinstance(error, OSError) and self._timer is not None:
            self._on_missing(error)
