"""The stdout sink: events for a log collector. Log events go to standard error."""

import asyncio
import os
import select
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sidecar.errors import SinkDown
from sidecar.metering.sinks.output_lock import OutputLock

_PIPE_BYTES: Final = 4096  # POSIX PIPE_BUF on Linux: a writable pipe accepts this many bytes
_POLL_MS: Final = 200


class StdoutSink:
    """Implements `ports.Sink`. It writes from a thread, so a slow reader does not block the loop.

    With `lock`, several sinks can write to one descriptor, and their lines do not mix. A sink that
    had to stop inside a line keeps the lock until that line is complete.
    """

    name = "stdout"

    def __init__(
        self, fd: int = 1, *, timeout_s: float = 5.0, lock: OutputLock | None = None
    ) -> None:
        self._fd = fd
        self._lock = lock
        self._polls = max(1, round(timeout_s * 1000 / _POLL_MS))
        self._rest = b""  # of a line that is written only in part
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stdout")

    async def check(self) -> None:
        """Raise SinkDown if standard output is closed."""
        try:
            os.fstat(self._fd)
        except OSError as error:
            raise SinkDown(f"standard output: {error.strerror}") from None

    async def send(self, lines: Sequence[bytes]) -> None:
        """Write the lines. Raises SinkDown if the reader has closed or stopped reading."""
        if self._closed:
            raise SinkDown("standard output: closed")
        data = b"\n".join(lines) + b"\n"
        await asyncio.get_running_loop().run_in_executor(self._thread, self._locked_write, data)

    def _locked_write(self, data: bytes) -> None:
        if self._lock is None:
            self._write(data)
            return
        if self._lock.acquire():
            self._rest = b"\n"  # another writer died, perhaps inside a line: end that line
        try:
            self._write(data)
        finally:
            if not self._rest:
                self._lock.release()

    def _write(self, data: bytes) -> None:
        pending = self._rest + data
        done = 0
        try:
            size = self._chunk_bytes()
            while done < len(pending):
                self._wait_writable()
                done += os.write(self._fd, pending[done : done + size])
            self._rest = b""
        except (OSError, SinkDown) as error:
            # The shipper repeats the whole batch, but first the unfinished line must end.
            if done:
                self._rest = _rest_of_line(pending, done)
            if isinstance(error, SinkDown):
                raise
            raise SinkDown(f"standard output: cannot be written: {error.strerror}") from None

    def _chunk_bytes(self) -> int:
        mode = os.fstat(self._fd).st_mode
        return _PIPE_BYTES if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else 1 << 20

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        for _ in range(self._polls):
            if poll.poll(_POLL_MS):
                return
            if self._closed:
                break
        raise SinkDown("standard output: its reader has stopped reading")

    async def close(self) -> None:
        """Stop writing. The descriptor stays open, because it belongs to the process."""
        self._closed = True
        if self._lock is not None:
            self._thread.submit(self._lock.close)
        self._thread.shutdown(wait=False)


def _rest_of_line(data: bytes, done: int) -> bytes:
    """Return the rest of the line that contains byte `done`; empty between two lines."""
    if done == 0 or data[done - 1 : done] == b"\n":
        return b""
    return data[done : data.index(b"\n", done) + 1]
