"""Several spools, one output: who writes has the turn, the others wait for it.

The turn is a lock on a file of its own, so it works between processes and the kernel takes it
back from a process that dies. A mark in the file tells the next one that this happened.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.errors import SinkDown
from sidecar.files import Files

_BUSY: Final = b"1"
_FREE: Final = b"0"
_STEP_S: Final = 0.005
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class OutputLock:
    """One writer's view of the turn. Belongs to one thread; its calls may block it."""

    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float = 5.0,
        files: Files | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._steps = max(1, round(timeout_s / _STEP_S))
        self._files = files or Files()
        self._sleep = sleep
        self._fd: int | None = None
        self._mine = False

    def take(self) -> bool:
        """Wait for the turn. Whether the one before died in the middle of it.

        Raises SinkDown when it does not come, or the file cannot be had. Taking a turn that one
        has not ended goes on with it.
        """
        if self._mine:
            return False
        try:
            if self._fd is None:
                self._fd = self._files.open(self._path, _FLAGS, 0o640)
            self._wait(self._fd)
            self._mine = True
            broken = os.pread(self._fd, 1, 0) == _BUSY
            os.pwrite(self._fd, _BUSY, 0)
        except OSError as error:
            self.leave()
            raise SinkDown(f"{self._path} cannot be locked: {error.strerror}.") from None
        return broken

    def _wait(self, fd: int) -> None:
        for _ in range(self._steps):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._sleep(_STEP_S)
            else:
                return
        raise SinkDown(f"Another writer holds {self._path} and does not end its turn.")

    def end(self) -> None:
        """Everything is whole; the next one may write. Idempotent."""
        if self._mine and self._fd is not None:
            self._mine = False
            os.pwrite(self._fd, _FREE, 0)
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def leave(self) -> None:
        """Give the turn back as if one had died: what is begun stays unfinished. Idempotent."""
        self._mine = False
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
