"""The spool: a durable local log of events, one JSON line each, numbered, chained, group-committed.

Laws of this file. `append` only computes: it numbers, chains and buffers a line. One commit at a
time writes the buffered lines on a worker thread, while the next batch gathers. A line is final
once it has its number, so a failed write is retried with the same bytes. Lines that the disk does
not accept wait in a bounded buffer. Events beyond that bound are dropped, counted, logged, and
recorded by a loss event.
"""

import asyncio
import os
from binascii import hexlify
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from sidecar.errors import SpoolError
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.metering.capacity import UNBOUNDED, Capacity
from sidecar.metering.lock import take_lock
from sidecar.metering.losses import Losses, LossNote, events_in
from sidecar.metering.recovery import RecoveryResult, recover
from sidecar.metering.segments import MAX_LINE, NO_LINE, Segment
from sidecar.metering.writer import SegmentWriter

WhenFull = Literal["refuse", "drop"]
_CHUNK: Final = 4 << 20  # bytes in one write: bounds the time in which the loop joins lines
_LOSS_BYTES: Final = 4096  # more than one loss event needs
_dumps = orjson.dumps
_log = logger("spool")


class Spool:
    """Implements `ports.Spool`. One per directory and process; belongs to one event loop.

    `appended`, `committed` and `dropped` count events since `open`, `write_errors` failed writes
    and deletions. `next_seq` is the number of the next event. `max_bytes` bounds `bytes_on_disk`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        commit_window_s: float = 0.02,
        segment_bytes: int = 64 << 20,
        max_bytes: int = 4 << 30,
        max_waiting_bytes: int = 64 << 20,
        when_full: WhenFull = "refuse",
        retry_s: float = 1.0,
        source: str = "/sidecar/spool",
        files: Files | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.directory = directory
        self.appended = self.committed = self.write_errors = 0
        self.max_bytes = max_bytes
        self.next_seq = 1
        self.spool_id = ""
        self.segments: list[Segment] = []  # oldest first; the last one is open
        self.on_commit: list[Callable[[], None]] = []
        self._window = commit_window_s
        # The open segment cannot be deleted, so it must be a small part of the spool.
        self._segment_bytes = max(1, min(segment_bytes, max_bytes // 8))
        self._capacity = Capacity(directory, max_bytes, when_full)
        self._shipped_seq: int | None = None
        self._max_waiting = max_waiting_bytes
        self._when_full = when_full
        self._retry_s = retry_s
        self._files = files or Files()
        self._losses = Losses(directory, self._files, source, now)
        self._buffer_limit = -1  # bytes; -1 accepts nothing: before `open` and after `close`
        self._format = b""
        self._prev = NO_LINE
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0  # includes lines in the current write
        self._writing: asyncio.Future[Segment] | None = None
        self._in_flight: Sequence[bytes] = ()
        self._committed_seq = 0
        self._due = self._releasing = False
        self._timer: asyncio.TimerHandle | None = None
        self._lock: int | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._writer: SegmentWriter | None = None

    @property
    def accepting(self) -> bool:
        """Whether new requests may rely on the spool.

        With `refuse`: False while the disk fails or the buffer is more than half full. The other
        half is for critical requests and for requests already admitted.
        """
        if self._when_full == "drop":
            return self._buffer_limit > 0
        return self._capacity.problem is None and self._waiting_bytes * 2 <= self._buffer_limit

    @property
    def bytes_on_disk(self) -> int:
        """Bytes in all segments."""
        return self._capacity.used

    @property
    def dropped(self) -> int:
        """Events dropped since `open`."""
        return self._losses.dropped

    @property
    def remedy(self) -> str:
        """How an operator frees space in the spool."""
        return self._capacity.remedy

    @property
    def shipped_seq(self) -> int | None:
        """Number of the last event that every sink has stored; None without sinks."""
        return self._shipped_seq

    @shipped_seq.setter
    def shipped_seq(self, seq: int) -> None:
        self._shipped_seq = seq
        self._capacity.shipped = True

    @property
    def committed_seq(self) -> int:
        """Number of the last event on disk; 0: none yet."""
        return self._committed_seq

    @property
    def backlog(self) -> int:
        """Events that the slowest sink has not stored yet; 0 without sinks."""
        return 0 if self.shipped_seq is None else max(0, self.next_seq - 1 - self.shipped_seq)

    def open(self) -> None:
        """Lock the directory, repair it after a crash, and continue the chain.

        Blocks: reads one segment. Raises SpoolError.
        """
        if self._lock is not None:
            raise SpoolError(f"--spool: {self.directory} is already open")
        lock = take_lock(self.directory, self._files)
        try:
            recovered = self._losses.continue_after(recover(self.directory, self._files))
            self._writer = SegmentWriter(
                self.directory, recovered, self._segment_bytes, self._files
            )
        except OSError as error:
            os.close(lock)
            raise SpoolError(
                f"--spool: {self.directory} cannot be read and repaired: {error.strerror}; "
                "check the disk, or name another directory with --spool DIR (SIDECAR_SPOOL)"
            ) from None
        self._lock = lock
        self._adopt(recovered)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._buffer_limit = self._max_waiting

    def _adopt(self, recovered: RecoveryResult) -> None:
        head = recovered.head
        self.spool_id, self.next_seq, self._prev = head
        self._committed_seq = head.next_seq - 1
        self.segments = recovered.segments
        self._capacity.used = sum(segment.size for segment in self.segments)
        self._format = b'{"spool":"%b","seq":%%d,"prev":"%%b",%%b' % head.spool.encode()

    # The hot path: about 4 µs.

    def append(self, event: dict[str, Any] | bytes) -> None:
        """Append one CloudEvent or its JSON. Never raises.

        The event must not be empty, nor have the attributes spool, seq and prev. It is on disk
        within the commit window, or counted in `dropped`.
        """
        if isinstance(event, bytes):
            text = event
        else:
            try:
                text = _dumps(event)
            except TypeError as error:
                _log.error("event_not_json", id=str(event.get("id")), error=str(error))
                self._drop()
                return
        line = self._format % (self.next_seq, self._prev, text[1:])
        size = len(line) + 1
        waiting = self._waiting_bytes + size
        if waiting > self._buffer_limit or size > MAX_LINE:
            self._drop()
            return
        self._prev = hexlify(sha256(line).digest())
        self.next_seq += 1
        self.appended += 1
        self._waiting.append(line)
        self._waiting_bytes = waiting
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._window, self._on_timer)

    def _drop(self) -> None:
        self._losses.drop(self._capacity.problem or "the buffer is full")

    # Commits start on the loop and run on the worker thread.

    def _on_timer(self) -> None:
        self._timer = None
        self._commit()

    def _commit(self) -> None:
        if self._writing is not None:
            self._due = True
            return
        if not self._waiting or self._worker is None or self._writer is None:
            return
        chunk, size = self._next_chunk()
        if not self._capacity.fits(size):
            self._capacity.report_bound()
            self._schedule(self._retry_s)
            return
        first = self.next_seq - len(self._waiting)
        del self._waiting[: len(chunk)]
        self._in_flight = chunk
        self._due = bool(self._waiting)
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._worker, self._writer.write, first, chunk)
        self._writing.add_done_callback(self._written)

    def _next_chunk(self) -> tuple[list[bytes], int]:
        limit = min(_CHUNK, self._segment_bytes)
        size = count = 0
        for line in self._waiting:
            if count and size + len(line) + 1 > limit:
                break
            size += len(line) + 1
            count += 1
        return self._waiting[:count], size

    def _written(self, result: asyncio.Future[Segment]) -> None:
        self._writing = None
        chunk, self._in_flight = self._in_flight, ()
        error = result.exception()
        if error is not None:
            self.write_errors += 1
            self._waiting[:0] = chunk
            self._capacity.report_error(error)
            self._schedule(self._retry_s)
            return
        self._count_written(chunk, result.result())
        self._capacity.report_success()
        self._record_losses()
        if self._due:
            self._commit()
        for callback in self.on_commit:
            callback()

    def _count_written(self, chunk: Sequence[bytes], segment: Segment) -> None:
        size = sum(map(len, chunk)) + len(chunk)
        self._waiting_bytes -= size
        self._capacity.add(size)
        self.committed += len(chunk)
        self._committed_seq = self.next_seq - 1 - len(self._waiting)
        if self.segments and self.segments[-1].first == segment.first:
            self.segments[-1].size = segment.size
        else:
            self.segments.append(segment)

    def _schedule(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _record_losses(self) -> None:
        """Append loss events, as soon as the buffer has space for them."""
        while self._losses.unproven and self._waiting_bytes + _LOSS_BYTES <= self._buffer_limit:
            self.append(self._losses.event(self.spool_id, self.next_seq))
        if self._losses.clears_note(self._committed_seq) and self._worker is not None:
            note = LossNote(self.spool_id, 0, 0)
            loop = asyncio.get_running_loop()
            loop.run_in_executor(self._worker, self._losses.write_note, note)

    async def release(self, first: int) -> None:
        """Delete the segments before the one that starts at `first`: every sink has stored them."""
        released = [segment for segment in self.segments[:-1] if segment.first < first]
        if not released or self._releasing or self._worker is None or self._writer is None:
            return
        self._releasing = True
        loop = asyncio.get_running_loop()
        paths = [segment.path for segment in released if segment.path.exists()]
        try:
            await loop.run_in_executor(self._worker, self._writer.remove, paths)
        except OSError as error:
            self.write_errors += 1
            _log.warning("segments_not_deleted", error=error.strerror, files=len(paths))
            return
        finally:
            self._releasing = False
        self.segments = [segment for segment in self.segments if segment not in released]
        self._capacity.free(sum(segment.size for segment in released))
        if self._capacity.problem is not None and self._writing is None:
            self._schedule(0)

    async def flush(self) -> None:
        """Wait until all events appended so far are on disk. Raises SpoolError if that fails."""
        target = self.next_seq - 1
        while self._committed_seq < target:
            self._commit()
            if self._writing is not None:
                await asyncio.wait([self._writing])
            if self._capacity.problem is not None:
                problem = self._capacity.problem
                raise SpoolError(f"--spool: {self.directory} cannot be written: {problem}")
            if self._worker is None:
                raise SpoolError(f"--spool: {self.directory} was closed before the last write")

    async def close(self) -> None:
        """Flush, write the head, and unlock the directory. Idempotent.

        `max_bytes` does not apply any more, so that buffered events reach the disk. Events that
        the disk refuses are logged as lost and noted for the next start.
        """
        if self._lock is None or self._worker is None or self._writer is None:
            return
        lock, self._lock = self._lock, None
        self._buffer_limit = -1
        self._capacity.max_bytes = UNBOUNDED
        try:
            await self.flush()
            self._buffer_limit = _LOSS_BYTES * 2  # for loss events
            self._record_losses()
            self._buffer_limit = -1
            await self.flush()
        except SpoolError as error:
            _log.error("events_lost", events=events_in(self._waiting), error=str(error))
        thread, self._worker = self._worker, None
        if self._timer is not None:
            self._timer.cancel()
        self._losses.log_dropped(self._capacity.problem or "the spool is closed")
        loop = asyncio.get_running_loop()
        if lost := self._losses.total_with(self._waiting):
            note = LossNote(self.spool_id, self.next_seq, lost)
            await loop.run_in_executor(thread, self._losses.write_note, note)
        try:
            await loop.run_in_executor(thread, self._writer.close)
        except OSError as refused:
            _log.warning("head_not_written", error=refused.strerror)
        thread.shutdown()
        os.close(lock)
