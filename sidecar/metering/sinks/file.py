"""The file sink: appends events durably, and follows a rename by logrotate."""

import asyncio
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sidecar.errors import SinkDown
from sidecar.files import Files
from sidecar.metering.sinks.output_lock import OutputLock

_OPEN = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class FileSink:
    """Implements `ports.Sink`.

    If the file was renamed or removed, the next batch creates a new one. With `lock`, several
    sinks can append to one file, and their batches do not mix.
    """

    name = "file"

    def __init__(
        self, path: Path, *, files: Files | None = None, lock: OutputLock | None = None
    ) -> None:
        self._path = path
        self._lock = lock
        self._files = files or Files()
        self._fd: int | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="file-sink")

    async def check(self) -> None:
        """Open the file. Raises SinkDown if that is not possible."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._check)

    def _check(self) -> None:
        if self._lock is not None:
            self._lock.acquire()
        try:
            self._current()
        except OSError as error:
            self._close_file()  # so that the next attempt syncs the name of a new file
            raise SinkDown(f"file sink {self._path}: cannot be opened: {error.strerror}") from None
        finally:
            if self._lock is not None:
                self._lock.release()

    async def send(self, lines: Sequence[bytes]) -> None:
        """Append and sync the lines: all of them or, unless the disk fails twice, none.

        Raises SinkDown if the file cannot be written.
        """
        if self._closed:
            raise SinkDown(f"file sink {self._path}: closed")
        data = b"\n".join(lines) + b"\n"
        await asyncio.get_running_loop().run_in_executor(self._thread, self._locked_append, data)

    def _locked_append(self, data: bytes) -> None:
        if self._lock is None:
            self._append(data)
            return
        self._lock.acquire()
        try:
            self._append(data)
        finally:
            self._lock.release()

    def _append(self, data: bytes) -> None:
        try:
            fd = self._current()
            size = os.fstat(fd).st_size
            try:
                self._files.write_all(fd, data)
                self._files.sync(fd)
            except OSError:
                self._files.truncate(fd, size)
                raise
        except OSError as error:
            self._close_file()
            raise SinkDown(f"file sink {self._path}: cannot be written: {error.strerror}") from None

    def _current(self) -> int:
        if self._fd is not None:
            opened = os.fstat(self._fd)
            try:
                if os.path.samestat(opened, self._path.stat()):
                    self._end_line(self._fd)
                    return self._fd
            except FileNotFoundError:
                pass  # rotated: create the new file below
            self._close_file()
        self._fd = fd = self._files.open(self._path, _OPEN, 0o640)
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and not status.st_size:
            self._files.sync_directory(self._path.parent)  # or a power failure takes its name
        self._end_line(fd)
        return fd

    def _end_line(self, fd: int) -> None:
        """End a line that a crashed writer left unfinished, so that the next line stays whole."""
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            self._files.write_all(fd, b"\n")

    def _close_file(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _close(self) -> None:
        self._close_file()
        if self._lock is not None:
            self._lock.close()

    async def close(self) -> None:
        """Close the file after the current batch. Idempotent."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown()
