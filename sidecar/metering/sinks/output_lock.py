"""A lock between processes whose sinks write to one output.

It is a lock on a separate file, so the kernel frees it when its process dies. A byte in the file
shows the next owner that the previous one died while it wrote.
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
_POLL_S: Final = 0.005
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class OutputLock:
    """The lock as one writer has it. Belongs to one thread, and may block it."""

    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float = 5.0,
        files: Files | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._polls = max(1, round(timeout_s / _POLL_S))
        self._files = files or Files()
        self._sleep = sleep
        self._fd: int | None = None
        self._owned = False

    def acquire(self) -> bool:
        """Wait for the lock. Returns whether its previous owner died while it wrote.

        Does nothing if this writer owns the lock already. Raises SinkDown after the timeout, or
        if the file cannot be opened or locked.
        """
        if self._owned:
            return False
        try:
            if self._fd is None:
                self._fd = self._files.open(self._path, _FLAGS, 0o640)
            self._wait(self._fd)
            self._owned = True
            broken = os.pread(self._fd, 1, 0) == _BUSY
            os.pwrite(self._fd, _BUSY, 0)
        except OSError as error:
            self.close()
            raise SinkDown(f"lock file {self._path}: cannot be locked: {error.strerror}") from None
        return broken

    def _wait(self, fd: int) -> None:
        for _ in range(self._polls):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._sleep(_POLL_S)
            else:
                return
        raise SinkDown(f"lock file {self._path}: another writer does not release it")

    def release(self) -> None:
        """Release the lock after whole lines. Idempotent."""
        if self._owned and self._fd is not None:
            self._owned = False
            os.pwrite(self._fd, _FREE, 0)
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. An owned lock looks as if its owner had died. Idempotent."""
        self._owned = False
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
