"""One sink's way through the spool: read committed lines, send, move the cursor, repeat."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from sidecar.errors import SinkRefused
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.metering.cursor import Cursor, cursor_path, load_cursor, save_cursor
from sidecar.metering.segments import MAX_LINE, Segment
from sidecar.metering.spool import Spool
from sidecar.ports import Sink

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 5.0
_T = TypeVar("_T")
_log = logger("shipper")


def dead_letter_path(directory: Path, sink: str) -> Path:
    """Where the events are kept that a sink will never take."""
    return directory / f"{sink}.dead.jsonl"


class Lane:
    """Delivers everything once or, after a failure, more than once; in order, never skipping.

    `idle` is set while nothing is left to deliver or the lane has stopped for good.
    """

    def __init__(
        self,
        spool: Spool,
        sink: Sink,
        *,
        batch: int,
        dead_bytes: int,
        directory: Path,
        files: Files,
        thread: Executor,
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
        moved: Callable[[], Awaitable[None]],
    ) -> None:
        self.sink = sink
        self.up = True
        self.stopped = False
        self.wake = asyncio.Event()
        self.idle = asyncio.Event()
        self._spool = spool
        self._batch = batch
        self._dead_bytes = dead_bytes
        self._files = files
        self._thread = thread
        self._sleep = sleep
        self._random = random
        self._moved = moved
        self._cursor_saved = True
        self._cursor_path = cursor_path(directory, sink.name)
        self._dead_path = dead_letter_path(directory, sink.name)
        self.cursor = load_cursor(self._cursor_path, spool.spool_id, spool.next_seq, spool.segments)

    @property
    def lag(self) -> int:
        """Events that this sink has not taken yet."""
        return max(0, self._spool.next_seq - 1 - self.cursor.seq)

    async def run(self) -> None:
        """Ship until cancelled."""
        delay = FIRST_DELAY_S
        while not self.stopped:
            self.wake.clear()
            try:
                while await self._deliver_some():
                    delay = FIRST_DELAY_S
                    self._came_up()
            except Exception as error:  # noqa: BLE001 - a broken sink must neither end the lane nor go unseen
                self._went_down(error)
                await self._sleep(delay * (0.5 + self._random() / 2))
                delay = min(LONGEST_DELAY_S, delay * 2)
                continue
            if not self.stopped and not self.wake.is_set() and self._segment() is None:
                # Numbers that the spool skipped (see recovery) are nobody's events.
                self.cursor = replace(self.cursor, seq=self._spool.committed_seq)
                await self._moved()
                self.idle.set()
                await self.wake.wait()
        self.idle.set()

    def _went_down(self, error: Exception) -> None:
        self.idle.clear()
        if self.up:
            self.up = False
            _log.warning("sink_down", sink=self.sink.name, error=str(error),
                         lag_events=self.lag)  # fmt: skip

    def _came_up(self) -> None:
        if not self.up:
            self.up = True
            _log.info("sink_up", sink=self.sink.name, lag_events=self.lag)

    def _segment(self) -> Segment | None:
        """The segment with the next line to send; None when all committed ones are sent."""
        for segment in self._spool.segments:
            if segment.first == self.cursor.segment and segment.size > self.cursor.offset:
                return segment
            if segment.first > self.cursor.segment and segment.size:
                return segment
        return None

    async def _deliver_some(self) -> bool:
        """Send one batch. False: nothing to send, or stopped. Raises what the sink raises."""
        segment = self._segment()
        if segment is None or self.stopped:
            return False
        self.idle.clear()
        if segment.first != self.cursor.segment:
            self.cursor = replace(self.cursor, segment=segment.first, offset=0)
        try:
            lines: list[bytes] = await self._in_thread(
                _read, segment.path, self.cursor.offset, segment.size, self._batch
            )
        except FileNotFoundError:
            _log.error("segment_missing", sink=self.sink.name, file=str(segment.path))
            self.cursor = replace(self.cursor, offset=segment.size)
            return True
        await self._send(lines)
        await self._moved()
        return not self.stopped

    async def _send(self, lines: Sequence[bytes]) -> None:
        """Deliver all lines, halving what the sink refuses down to the poison event."""
        at, size = 0, len(lines)
        while at < len(lines):
            part = lines[at : at + size]
            try:
                await self.sink.send(part)
            except SinkRefused as error:
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                if not await self._bury(part[0], error):
                    return
                size = len(lines)
            await self._advance(part)
            at += len(part)

    async def _advance(self, lines: Sequence[bytes]) -> None:
        offset = self.cursor.offset + sum(map(len, lines)) + len(lines)
        seq = _seq_of(lines[-1])
        seq = self.cursor.seq + len(lines) if seq is None else seq
        seq = min(seq, self._spool.committed_seq)
        self.cursor = Cursor(self._spool.spool_id, seq, self.cursor.segment, offset)
        try:
            await self._in_thread(save_cursor, self._files, self._cursor_path, self.cursor)
        except OSError as error:
            # Shipping goes on: it is what makes room on a full disk. A restart sends some again.
            if self._cursor_saved:
                _log.warning("cursor_not_saved", sink=self.sink.name, error=error.strerror)
            self._cursor_saved = False
        else:
            self._cursor_saved = True

    async def _bury(self, line: bytes, error: SinkRefused) -> bool:
        """Keep a poison event in the dead-letter file. False: no room there, so the lane stops."""
        if not await self._in_thread(
            _append_dead, self._files, self._dead_path, line, self._dead_bytes
        ):
            self.stopped = True
            _log.error(
                "sink_stopped",
                sink=self.sink.name,
                error=str(error),
                remedy=f"{self._dead_path} is full; look into it, move it away, restart",
            )
            return False
        _log.error("event_refused_by_sink", sink=self.sink.name, error=str(error),
                   seq=_seq_of(line), dead_letter_file=str(self._dead_path))  # fmt: skip
        return True

    async def _in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


def _seq_of(line: bytes) -> int | None:
    """The number in the fixed front of a spool line; None when the line is damaged."""
    _, found, rest = line[:80].partition(b'"seq":')
    digits = rest.partition(b",")[0]
    return int(digits) if found and digits.isdigit() else None


def _read(path: Path, offset: int, end: int, batch: int) -> list[bytes]:
    """Up to `batch` lines, at most MAX_LINE bytes of them; at least one."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(min(end - offset, MAX_LINE))
    if not data:
        raise OSError(f"{path} is shorter than what was committed")
    lines = data.split(b"\n")
    if len(lines) > 1:
        return lines[: min(batch, len(lines) - 1)]
    return lines  # damaged: longer than any line, or the file ends without a newline


def _append_dead(files: Files, path: Path, line: bytes, most: int) -> bool:
    fd = files.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        size = os.fstat(fd).st_size
        if size + len(line) + 1 > most:
            return False
        try:
            files.write_all(fd, line + b"\n")
            files.sync(fd)
        except OSError:
            files.truncate(fd, size)
            raise
        return True
    finally:
        os.close(fd)
