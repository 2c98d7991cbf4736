"""The spool: a durable local log of events, one JSON line each, numbered, chained, group-committed.

Laws of this file. `append` numbers and chains a line, and copies it into the buffer, a mapped
file. So the line survives the death of the process from then on. One commit at a time writes the
waiting lines to a segment on a worker thread, while the next batch gathers. A line is final once
it has its number, so a failed write is retried with the same bytes. Lines that the disk does not
accept stay in the buffer, which is bounded. Events beyond that bound are dropped, counted,
logged, and recorded by a loss event. Missing files are treated like a full disk.
"""

import asyncio
import os
from binascii import hexlify
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson

from sidecar.errors import SpoolError
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.metering.buffer import LineBuffer
from sidecar.metering.capacity import UNBOUNDED
from sidecar.metering.chain import LOSS_BYTES, Chain, WhenFull
from sidecar.metering.file_watch import FileWatch
from sidecar.metering.files_of_spool import open_files, reopen_files
from sidecar.metering.losses import LossNote
from sidecar.metering.recovery import MissingEvents
from sidecar.metering.segments import MAX_LINE, Segment
from sidecar.metering.writer import SegmentWriter

_dumps = orjson.dumps
_log = logger("spool")


class Spool(Chain):
    """Implements `ports.Spool`. One per directory and process; belongs to one event loop.

    `appended`, `committed` and `dropped` count events since `open`, `write_errors` failed writes
    and deletions. `next_seq` is the number of the next event. `max_bytes` bounds `bytes_on_disk`.
    """

    __slots__ = (
        "_closing", "_due", "_in_flight", "_lock", "_observe_commit", "_opening", "_releasing",
        "_reopening", "_retry_s", "_since", "_timer", "_watch", "_window", "_worker", "_writer",
        "_writing", "_writing_since", "on_commit", "on_reopen",
    )  # fmt: skip

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
        observe_commit: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(
            directory, segment_bytes, max_bytes, max_waiting_bytes, when_full, source,
            files or Files(), now,
        )  # fmt: skip
        self.on_commit: list[Callable[[], None]] = []
        self.on_reopen: list[Callable[[], None]] = []  # after missing files were created again
        self._window = commit_window_s
        self._retry_s = retry_s
        self._writing: asyncio.Future[Segment] | None = None
        self._in_flight: Sequence[bytes] = ()
        self._due = self._releasing = self._opening = self._closing = False
        self._reopening: asyncio.Future[tuple[int, LineBuffer]] | None = None
        self._observe_commit = observe_commit
        self._since = 0.0  # when the oldest line of the next batch was appended
        self._writing_since = 0.0  # when the oldest line of the current write was appended
        self._timer: asyncio.TimerHandle | None = None
        self._watch: FileWatch | None = None
        self._lock: int | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._writer: SegmentWriter | None = None

    def open(self) -> None:
        """Lock the directory, repair it after a crash, and continue the chain.

        Lines that the last process left in the buffer are written first. Blocks: reads one segment
        and the buffer. Raises SpoolError.
        """
        if self._lock is not None:
            raise SpoolError(f"--spool: {self.directory} is already open")
        opened = open_files(self.directory, self._segment_bytes, self._buffer_bytes, self._files)
        try:
            self._lock, self._writer = opened.lock, opened.writer
            self._adopt(opened, self._losses.next_seq_after(opened.recovered))
            self._files.sync_directory(self.directory)
        except OSError as error:
            os.close(opened.lock)
            raise SpoolError(f"--spool: {self.directory}: {error.strerror}") from None
        self._closing = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._losses.add_start_events(opened.recovered)
        if opened.recovered.missing:
            self._new_first = opened.recovered.head.first
        self._opening = True
        self._append_facts()
        self._opening = False
        self._write_at_start(opened.writer)
        self.appended = self.committed = 0

    def _write_at_start(self, writer: SegmentWriter) -> None:
        """Write the lines that wait. If the disk refuses them, they stay in the buffer."""
        try:
            while self._waiting:
                chunk, _ = self._next_chunk()
                segment = writer.write(self.next_seq - len(self._waiting), chunk)
                del self._waiting[: len(chunk)]
                self._count_written(chunk, segment)
            first = self._recorded_first()
            if first is not None:
                writer.record_first(first)
        except OSError as error:
            self._capacity.report_error(error)
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # opened by another thread: the next append or flush goes on
            return
        if self._waiting:
            self._schedule(self._retry_s)
        if self._worker is not None:
            self._watch = FileWatch(self._worker, writer, self._on_missing_files)
            self._watch.start()

    @property
    def next_written(self) -> int:
        """Number of the next event that a segment gets."""
        return self.next_seq - len(self._waiting) - len(self._in_flight)

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
        waiting, buffer = self._waiting_bytes + size, self._buffer
        if waiting > self._buffer_limit or size > MAX_LINE or buffer is None:
            self._drop()
            return
        digest = hexlify(sha256(line).digest())
        if not buffer.put(line, digest, self.next_seq, size):
            self._drop()
            return
        self._prev = digest
        self.next_seq += 1
        self.appended += 1
        self._waiting.append(line)
        self._waiting_bytes = waiting
        if self._timer is None and not self._opening:
            self._start_timer()

    def _drop(self) -> None:
        self._losses.drop(self._capacity.problem or "the buffer is full")

    def _start_timer(self) -> None:
        if len(self._waiting) == 1:
            self._since = perf_counter()
        self._timer = asyncio.get_running_loop().call_later(self._window, self._on_timer)

    # Commits start on the loop and run on the worker thread.

    def _on_timer(self) -> None:
        self._timer = None
        self._commit()

    def _commit(self) -> None:
        if self._writing is not None:
            self._due = True
            return
        if self._worker is None or self._writer is None or self._lock is None:
            return
        if self._capacity.files_missing:
            self._reopen(self._worker, self._writer, self._lock)
            return
        if not self._waiting:
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
        self._writing_since = self._since
        if self._due:
            self._since = perf_counter()
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(self._worker, self._writer.write, first, chunk)
        self._writing.add_done_callback(self._written)

    def _written(self, result: asyncio.Future[Segment]) -> None:
        self._writing = None
        chunk, self._in_flight = self._in_flight, ()
        since = self._writing_since
        error = result.exception()
        if error is not None:
            self.write_errors += 1
            self._waiting[:0] = chunk
            self._capacity.report_error(error)
            self._schedule(self._retry_s)
            return
        self._count_written(chunk, result.result())
        if self._observe_commit is not None:
            self._observe_commit(perf_counter() - since)
        self._capacity.report_success()
        self._record_losses()
        if self._due:
            self._commit()
        for callback in self.on_commit:
            callback()

    def _schedule(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _record_losses(self) -> None:
        """Append loss events, as soon as the buffer has space for them."""
        self._append_facts()
        while self._losses.unproven and self._waiting_bytes + LOSS_BYTES <= self._buffer_limit:
            self.append(self._losses.event(self.spool_id, self.next_seq))
        if self._losses.clears_note(self._committed_seq) and self._worker is not None:
            note = LossNote(self.spool_id, 0, 0)
            loop = asyncio.get_running_loop()
            loop.run_in_executor(self._worker, self._losses.write_note, note)
        if self._worker is not None and self._writer is not None:
            first = self._recorded_first()
            if first is not None:
                self._record_first(self._worker, self._writer, first)

    def _record_first(self, worker: ThreadPoolExecutor, writer: SegmentWriter, first: int) -> None:
        """Write the head. If the disk refuses it, the next commit tries again."""

        def on_written(result: asyncio.Future[None]) -> None:
            if result.exception() is not None and self._new_first is None:
                self._new_first = first

        loop = asyncio.get_running_loop()
        loop.run_in_executor(worker, writer.record_first, first).add_done_callback(on_written)

    def _append_facts(self) -> None:
        facts = self._losses.facts
        while facts and self._waiting_bytes + LOSS_BYTES <= self._buffer_limit:
            self.append(facts.pop(0))
            self._fact_seq = self.next_seq - 1

    def report_missing(self, first: int, last: int) -> None:
        """Log and record that these events are not in the spool any more. Once for each range."""
        self._losses.report(self.spool_id, MissingEvents(first, last))
        self._append_facts()

    def report_damaged(self, first: int, last: int, file: str, set_aside: str) -> None:
        """Log and record that these events were changed, and not shipped. Once for each range."""
        self._losses.report(self.spool_id, MissingEvents(first, last), file, set_aside)
        self._append_facts()

    # Missing files. They are checked at each commit, and each second.

    def _on_missing_files(self, error: OSError) -> None:
        if self._writing is None and not self._capacity.files_missing:
            self.write_errors += 1
            self._capacity.report_error(error)
            self._schedule(self._retry_s)

    def _reopen(self, worker: ThreadPoolExecutor, writer: SegmentWriter, lock: int) -> None:
        if self._reopening is not None:
            return
        create = self._closing  # the events would be lost otherwise
        self._reopening = asyncio.get_running_loop().run_in_executor(
            worker,
            reopen_files,
            self.directory,
            self._buffer_bytes,
            lock,
            writer,
            self._files,
            create,
        )
        self._reopening.add_done_callback(self._reopened)

    def _reopened(self, result: asyncio.Future[tuple[int, LineBuffer]]) -> None:
        self._reopening = None
        if result.exception() is not None:
            if self._worker is not None:
                self._schedule(self._retry_s)
            return
        lock, buffer = result.result()
        if self._lock is None or self._writer is None or self._buffer is None:
            return
        if lock != self._lock:
            os.close(self._lock)
            self._lock = self._writer.lock = lock
        if buffer is not self._buffer:
            self.in_flight = [self.in_flight[0]]
            self._buffer.close(remove=False)
            self._writer.buffer = buffer
            self._adopt_buffer(buffer)
        cut = self._writer.take_cut()
        if cut is not None:
            self._forget_cut_lines(*cut)
        self._forget_missing_segments()
        self._capacity.report_success()
        self._record_losses()
        self._commit()
        for callback in self.on_reopen:
            callback()

    async def release(self, first: int) -> None:
        """Delete the segments before the one that starts at `first`: every sink has stored them."""
        released = [segment for segment in self.segments[:-1] if segment.first < first]
        if not released or self._releasing or self._worker is None or self._writer is None:
            return
        self._releasing = True
        loop = asyncio.get_running_loop()
        paths = [segment.path for segment in released if segment.path.exists()]
        oldest = self.segments[len(released)].first
        try:
            await loop.run_in_executor(self._worker, self._writer.remove, paths, oldest)
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
            if self._reopening is not None:
                await asyncio.wait([self._reopening])
            if self._writing is not None:
                await asyncio.wait([self._writing])
            if self._capacity.problem is not None:
                problem = self._capacity.problem
                raise SpoolError(f"--spool: {self.directory} cannot be written: {problem}")
            if self._worker is None:
                raise SpoolError(f"--spool: {self.directory} was closed before the last write")

    async def close(self) -> None:
        """Flush, write the head, and unlock the directory. Idempotent.

        `max_bytes` does not apply any more, so that waiting events reach the disk. Events that the
        disk refuses stay in the buffer for the next start. If that is missing, they are logged as
        lost, and noted.
        """
        if self._closing or self._worker is None or self._writer is None:
            return
        self._closing = True
        self._buffer_limit = -1
        self._capacity.max_bytes = UNBOUNDED
        try:
            await self.flush()
            self._buffer_limit = LOSS_BYTES * 2  # for loss events
            self._record_losses()
            self._buffer_limit = -1
            await self.flush()
        except SpoolError as error:
            gone = self._capacity.files_missing
            self._losses.report_unwritten(self._waiting, lost=gone, error=str(error))
        thread, self._worker = self._worker, None
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.stop()
        self._losses.log_dropped(self._capacity.problem or "the spool is closed")
        loop = asyncio.get_running_loop()
        lost = self._waiting if self._capacity.files_missing else ()
        if count := self._losses.total_with(lost):
            note = LossNote(self.spool_id, self.next_seq, count)
            await loop.run_in_executor(thread, self._losses.write_note, note)
        try:
            await loop.run_in_executor(thread, self._writer.close)
        except OSError as refused:
            _log.warning("head_not_written", error=refused.strerror)
        thread.shutdown()
        if self._buffer is not None and self._lock is not None:
            self.in_flight = [self.in_flight[0]]
            self._buffer.close(remove=not self._waiting)
            os.close(self._lock)
            self._lock = None
