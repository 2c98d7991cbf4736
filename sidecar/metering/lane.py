"""The lane of one sink: read committed lines, send them, move the cursor, repeat."""

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
from sidecar.metering.proof import PREFIX_BYTES, Part, Successor, prove, successor_of
from sidecar.metering.segments import HEAD_NAME, MAX_LINE, Segment
from sidecar.metering.spool import Spool
from sidecar.ports import Sink

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 5.0
_T = TypeVar("_T")
_log = logger("shipper")


def dead_letter_path(directory: Path, sink: str) -> Path:
    """Return the file of the events that this sink refuses for good."""
    return directory / f"{sink}.dead.jsonl"


class Lane:
    """Delivery to one sink: in order, at least once, without gaps.

    `idle` is set while nothing is left to deliver, or after the lane has stopped for good. The
    lane awaits `on_progress` after each delivery.
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
        on_progress: Callable[[], Awaitable[None]],
    ) -> None:
        self.sink = sink
        self.up = True
        self.error = ""  # while it is not up, or stopped
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
        self._on_progress = on_progress
        self._cursor_saved = True
        self._cursor_path = cursor_path(directory, sink.name)
        self._dead_path = dead_letter_path(directory, sink.name)
        self.cursor = load_cursor(
            self._cursor_path,
            spool.spool_id,
            spool.next_seq,
            spool.segments,
            spool.next_written,
        )

    @property
    def lag(self) -> int:
        """Number of events that are not delivered yet."""
        return max(0, self._spool.next_seq - 1 - self.cursor.seq)

    async def run(self) -> None:
        """Ship until cancelled, or until the lane stops for good."""
        delay, checked = FIRST_DELAY_S, False
        while not self.stopped:
            self.wake.clear()
            try:
                if not checked:
                    await self.sink.check()
                    checked = True
                    self._mark_up()
                while await self._deliver_batch():
                    delay = FIRST_DELAY_S
                    self._mark_up()
            except Exception as error:  # noqa: BLE001 - a faulty sink must not end the lane
                self._mark_down(error)
                await self._sleep(delay * (0.5 + self._random() / 2))
                delay = min(LONGEST_DELAY_S, delay * 2)
                continue
            if not self.stopped and not self.wake.is_set() and self._segment() is None:
                # Numbers that the spool skipped (see recovery) have no events.
                self.cursor = replace(self.cursor, seq=self._spool.committed_seq)
                await self._on_progress()
                self.idle.set()
                await self.wake.wait()
        self.idle.set()

    def _mark_down(self, error: Exception) -> None:
        self.idle.clear()
        self.error = str(error)
        if self.up:
            self.up = False
            _log.warning("sink_down", sink=self.sink.name, error=str(error), lag_events=self.lag)

    def _mark_up(self) -> None:
        if not self.up:
            self.up, self.error = True, ""
            _log.info("sink_up", sink=self.sink.name, lag_events=self.lag)

    def _segment(self) -> Segment | None:
        """Return the segment with the next line to send; None: all committed lines are sent."""
        for segment in self._spool.segments:
            if segment.first == self.cursor.segment and segment.size > self.cursor.offset:
                return segment
            if segment.first > self.cursor.segment and segment.size:
                return segment
        return None

    async def _deliver_batch(self) -> bool:
        """Send one batch. Returns False if nothing is left or the lane stopped.

        Raises what the sink raises.
        """
        segment = self._segment()
        if segment is None or self.stopped:
            return False
        self.idle.clear()
        if segment.first != self.cursor.segment:
            self.cursor = replace(self.cursor, segment=segment.first, offset=0)
        spool, expected = self._spool, self.cursor.seq + 1
        place = segment.path, self.cursor.offset, segment.size, self._batch
        try:
            parts: list[Part] = await self._in_thread(
                _read_parts, *place, self._after(segment), spool.spool_id, expected
            )
        except FileNotFoundError:
            if not (spool.directory / HEAD_NAME).exists():
                raise  # the directory may come back
            _log.error("segment_missing", sink=self.sink.name, file=str(segment.path))
            self.cursor = replace(self.cursor, offset=segment.size)
            return True
        for part in parts:
            if part.first > expected:
                spool.report_missing(expected, part.first - 1)
            expected = part.last + 1
            if part.damaged:
                await self._set_damaged_aside(part, segment)
                await self._advance(part.lines, part.last)
            elif not self.stopped:
                await self._send(part.lines)
        await self._on_progress()
        return not self.stopped

    def _after(self, segment: Segment) -> Successor | Path | None:
        """Return what proves the last line of a segment: a hash, or the segment that follows."""
        spool = self._spool
        if segment is spool.segments[-1]:
            return Successor(spool.committed_seq + 1, spool.committed_hash)
        newer = (other.path for other in spool.segments if other.first > segment.first)
        return next(newer, None)

    async def _set_damaged_aside(self, part: Part, segment: Segment) -> None:
        """Write damaged lines to a file of their own: they are evidence, but not events."""
        path = self._spool.directory / f"damaged-{part.first}-{part.last}.bad"
        content = b"\n".join(part.lines) + b"\n"
        await self._in_thread(_write_aside, self._files, path, content)
        self._spool.report_damaged(part.first, part.last, segment.path.name, path.name)

    async def _send(self, lines: Sequence[bytes]) -> None:
        """Deliver all lines. Halves a refused batch until it finds the refused event."""
        at, size = 0, len(lines)
        while at < len(lines):
            part = lines[at : at + size]
            try:
                await self.sink.send(part)
            except SinkRefused as error:
                if len(part) > 1:
                    size = len(part) // 2
                    continue
                if not await self._set_aside(part[0], error):
                    return
                size = len(lines)
            await self._advance(part, _seq_of(part[-1]) or self.cursor.seq + len(part))
            at += len(part)

    async def _advance(self, lines: Sequence[bytes], seq: int) -> None:
        offset = self.cursor.offset + sum(map(len, lines)) + len(lines)
        seq = min(seq, self._spool.committed_seq)
        self.cursor = Cursor(self._spool.spool_id, seq, self.cursor.segment, offset)
        try:
            await self._in_thread(save_cursor, self._files, self._cursor_path, self.cursor)
        except OSError as error:
            # Continue: on a full disk, only shipping frees space. A restart repeats some events.
            if self._cursor_saved:
                _log.warning("cursor_not_saved", sink=self.sink.name, error=error.strerror)
            self._cursor_saved = False
        else:
            self._cursor_saved = True

    async def _set_aside(self, line: bytes, error: SinkRefused) -> bool:
        """Append a refused event to the dead-letter file. Returns False and stops if it is full."""
        if not await self._in_thread(
            _append_dead, self._files, self._dead_path, line, self._dead_bytes
        ):
            self.stopped, self.error = True, "stopped: its dead-letter file is full"
            _log.error(
                "sink_stopped",
                sink=self.sink.name,
                error=f"dead-letter file is full; {error}",
                remedy=f"examine the events in {self._dead_path}, move it away, restart",
            )
            return False
        _log.error(
            "event_refused_by_sink",
            sink=self.sink.name,
            error=str(error),
            seq=_seq_of(line),
            dead_letter_file=str(self._dead_path),
        )
        return True

    async def _in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


def _seq_of(line: bytes) -> int | None:
    """Return the number at the start of a spool line; None if the line is damaged."""
    _, found, rest = line[:80].partition(b'"seq":')
    digits = rest.partition(b",")[0]
    return int(digits) if found and digits.isdigit() else None


def _read_parts(
    path: Path,
    offset: int,
    end: int,
    batch: int,
    after: Successor | Path | None,
    spool: str,
    expected: int,
) -> list[Part]:
    """Return 1 to `batch` lines, at most MAX_LINE bytes, with proof.

    `after`: what proves the last line of the segment.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(min(end - offset, MAX_LINE + PREFIX_BYTES))
    if not data:
        raise OSError(f"{path}: shorter than its committed size")
    lines = data[:MAX_LINE].split(b"\n")
    # A single piece is damaged: too long, or without a newline at the end of the file.
    count = min(batch, len(lines) - 1) if len(lines) > 1 else 1
    lines = lines[:count]
    at = sum(map(len, lines)) + count
    if at < len(data):
        following = successor_of(data[at : at + PREFIX_BYTES])
    elif offset + at < end:  # the next read begins with it
        following = _first_of(path, offset + at)
    else:
        following = _first_of(after, 0) if isinstance(after, Path) else after
    return prove(lines, following, spool, expected)


def _first_of(path: Path, offset: int) -> Successor | None:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return successor_of(file.read(PREFIX_BYTES))
    except FileNotFoundError:
        return None


def _write_aside(files: Files, path: Path, content: bytes) -> None:
    files.replace(path, content)
    files.sync_directory(path.parent)


def _append_dead(files: Files, path: Path, line: bytes, max_bytes: int) -> bool:
    fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        size = _end_of_lines(fd)
        if size < os.fstat(fd).st_size:
            files.truncate(fd, size)
        if not size:
            files.sync_directory(path.parent)  # its name, before the cursor passes the event
        if size + len(line) + 1 > max_bytes:
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


def _end_of_lines(fd: int) -> int:
    """Return the size without an unfinished line, which a crash or a full disk left at the end."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, MAX_LINE, max(0, size - MAX_LINE))
    return size - len(tail) + tail.rfind(b"\n") + 1
