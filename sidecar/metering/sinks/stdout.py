"""Events on standard output, for a log collector. Logs go to standard error."""

import asyncio
import os
import select
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sidecar.errors import SinkDown
from sidecar.metering.sinks.output_lock import OutputLock

_PIPE_PIECE: Final = 4096  # POSIX PIPE_BUF on Linux: a pipe that polls writable takes this much
_SLICE_MS: Final = 200


class StdoutSink:
    """Writes lines to a file descriptor from a thread, so that a slow reader blocks nobody.

    With `turns` several sinks may write to one descriptor: lines never mix. Who had to stop
    inside a line keeps the turn until that line is whole.
    """

    name = "stdout"

    def __init__(
        self, fd: int = 1, *, timeout_s: float = 5.0, turns: OutputLock | None = None
    ) -> None:
        self._fd = fd
        self._turns = turns
        self._slices = max(1, round(timeout_s * 1000 / _SLICE_MS))
        self._rest = b""  # of a line that was cut when the reader stopped reading
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stdout")

    async def send(self, lines: Sequence[bytes]) -> None:
        """Write the lines. Raises SinkDown when the reader is gone or reads nothing for long."""
        if self._closed:
            raise SinkDown("Standard output is closed.")
        data = b"\n".join(lines) + b"\n"
        await asyncio.get_running_loop().run_in_executor(self._thread, self._in_turn, data)

    def _in_turn(self, data: bytes) -> None:
        if self._turns is None:
            self._write(data)
            return
        if self._turns.take():
            self._rest = b"\n"  # another writer died, perhaps inside a line: end that
        try:
            self._write(data)
        finally:
            if not self._rest:
                self._turns.end()

    def _write(self, data: bytes) -> None:
        everything = self._rest + data
        done = 0
        try:
            piece = self._piece()
            while done < len(everything):
                self._wait_writable()
                done += os.write(self._fd, everything[done : done + piece])
            self._rest = b""
        except (OSError, SinkDown) as error:
            # The batch comes again from its start; first the line that was cut must end.
            if done:
                self._rest = _rest_of_line(everything, done)
            if isinstance(error, SinkDown):
                raise
            raise SinkDown(f"Standard output cannot be written: {error.strerror}.") from None

    def _piece(self) -> int:
        mode = os.fstat(self._fd).st_mode
        return _PIPE_PIECE if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else 1 << 20

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        for _ in range(self._slices):
            if poll.poll(_SLICE_MS):
                return
            if self._closed:
                break
        raise SinkDown("Standard output takes no more: its reader has stopped reading.")

    async def close(self) -> None:
        """Stop writing. The descriptor itself stays open: it is the process's."""
        self._closed = True
        if self._turns is not None:
            self._thread.submit(self._turns.leave)
        self._thread.shutdown(wait=False)


def _rest_of_line(data: bytes, done: int) -> bytes:
    """What is missing of the line that byte `done` stands in; empty between two lines."""
    if done == 0 or data[done - 1 : done] == b"\n":
        return b""
    return data[done : data.index(b"\n", done) + 1]
