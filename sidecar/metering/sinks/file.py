"""Events appended to a file, durable per batch; follows logrotate's rename."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sidecar.errors import SinkDown
from sidecar.files import Files
from sidecar.metering.sinks.output_lock import OutputLock

_OPEN = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class FileSink:
    """A file that was renamed or removed is opened anew under its name before the next batch.

    With `turns` several sinks may append to one file: batches never mix.
    """

    name = "file"

    def __init__(
        self, path: Path, *, files: Files | None = None, turns: OutputLock | None = None
    ) -> None:
        self._path = path
        self._turns = turns
        self._files = files or Files()
        self._fd: int | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="file-sink")

    async def send(self, lines: Sequence[bytes]) -> None:
        """Append and sync the lines; all of them or, as far as the disk lets us, none.

        Raises SinkDown when the file cannot be written.
        """
        if self._closed:
            raise SinkDown(f"The sink file {self._path} is closed.")
        data = b"\n".join(lines) + b"\n"
        await asyncio.get_running_loop().run_in_executor(self._thread, self._in_turn, data)

    def _in_turn(self, data: bytes) -> None:
        if self._turns is None:
            self._append(data)
            return
        self._turns.take()
        try:
            self._append(data)
        finally:
            self._turns.end()

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
            self._let_go()
            raise SinkDown(
                f"The sink file {self._path} cannot be written: {error.strerror}."
            ) from None

    def _current(self) -> int:
        if self._fd is not None:
            mine = os.fstat(self._fd)
            try:
                if os.path.samestat(mine, self._path.stat()):
                    self._end_line(self._fd)
                    return self._fd
            except FileNotFoundError:
                pass  # rotated away: the new file is created below
            self._let_go()
        self._fd = fd = self._files.open(self._path, _OPEN, 0o640)
        self._end_line(fd)
        return fd

    def _end_line(self, fd: int) -> None:
        """A crash, ours or another writer's, cut a line: the next one stays whole."""
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            self._files.write_all(fd, b"\n")

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _leave(self) -> None:
        self._let_go()
        if self._turns is not None:
            self._turns.leave()

    async def close(self) -> None:
        """Close the file after the batch that is being written. Idempotent."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._leave)
            self._thread.shutdown()
