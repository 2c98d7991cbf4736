"""The chain of a spool: numbers, hashes, the lines that wait for the disk, and what is on it.

The part of `Spool` that knows neither an event loop nor a thread.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from sidecar.files import Files
from sidecar.metering.buffer import LineBuffer
from sidecar.metering.capacity import Capacity
from sidecar.metering.files_of_spool import SpoolFiles
from sidecar.metering.losses import Losses
from sidecar.metering.recovery import MissingEvents
from sidecar.metering.segments import NO_LINE, Segment, line_hash

WhenFull = Literal["refuse", "drop"]
LOSS_BYTES: Final = 4096  # more than one loss event needs
_CHUNK: Final = 4 << 20  # bytes in one write: bounds the time in which the loop joins lines


class Chain:
    """The state of a spool, as `Spool` describes it."""

    # More attributes than the interpreter keeps outside of a dictionary: it reads slots fast.
    __slots__ = (
        "_buffer", "_buffer_bytes", "_buffer_limit", "_capacity", "_committed_hash",
        "_committed_line", "_committed_seq", "_fact_seq", "_files", "_format", "_losses",
        "_max_waiting", "_new_first", "_prev", "_segment_bytes", "_shipped_seq", "_waiting",
        "_waiting_bytes", "_when_full", "appended", "committed", "directory", "in_flight",
        "max_bytes", "next_seq", "segments", "spool_id", "write_errors",
    )  # fmt: skip

    def __init__(
        self,
        directory: Path,
        segment_bytes: int,
        max_bytes: int,
        max_waiting_bytes: int,
        when_full: WhenFull,
        source: str,
        files: Files,
        now: Callable[[], datetime],
    ) -> None:
        self.directory = directory
        self.appended = self.committed = self.write_errors = 0
        self.max_bytes = max_bytes
        self.next_seq = 1
        self.spool_id = ""
        self.segments: list[Segment] = []  # oldest first; the last one is open
        # The open segment cannot be deleted, so it must be a small part of the spool.
        self._segment_bytes = max(1, min(segment_bytes, max_bytes // 8))
        self._capacity = Capacity(directory, max_bytes, when_full)
        self._shipped_seq: int | None = None
        self._max_waiting = max_waiting_bytes
        self._when_full = when_full
        self._files = files
        self._losses = Losses(directory, files, source, now)
        self._buffer: LineBuffer | None = None
        self._buffer_bytes = max_waiting_bytes * 5 // 4  # of the file: records are longer
        self._buffer_limit = -1  # bytes; -1 accepts nothing: before `open` and after `close`
        self._format = b""
        self._prev = NO_LINE
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0  # includes lines in the current write
        self._committed_seq = 0
        self._committed_line: bytes | None = None
        self._committed_hash = NO_LINE
        self._new_first: int | None = None  # for the head, once `_fact_seq` is on disk
        self._fact_seq = 0  # number of the last event about the spool
        # In [0] the number of requests in flight, for a start after a kill. The gate counts there.
        self.in_flight: Any = [0]

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
    def problem(self) -> str | None:
        """Why events go only to the buffer: the spool is full, or its disk fails."""
        return self._capacity.problem

    @property
    def bytes_on_disk(self) -> int:
        """Bytes in all segments."""
        return self._capacity.used

    @property
    def dropped(self) -> int:
        """Events dropped since `open`."""
        return self._losses.dropped

    @property
    def missing(self) -> int:
        """Events found to be missing since `open`: deleted, or damaged."""
        return self._losses.missing

    @property
    def damaged(self) -> int:
        """Events found to be damaged since `open`, and set aside."""
        return self._losses.damaged

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

    @property
    def committed_hash(self) -> bytes:
        """Hash of the last line on disk."""
        if self._committed_line is not None:
            self._committed_hash = line_hash(self._committed_line)
            self._committed_line = None
        return self._committed_hash

    # Lines.

    def _adopt(self, opened: SpoolFiles, next_seq: int) -> None:
        recovered, self._buffer = opened.recovered, opened.buffer
        self.in_flight = opened.buffer.in_flight
        unwritten = recovered.unwritten
        head = recovered.head
        self.spool_id, self._prev = head.spool, unwritten.head.prev
        self.next_seq = unwritten.head.next_seq if unwritten.lines else next_seq
        self._committed_seq = unwritten.first - 1
        self._committed_line, self._committed_hash = None, head.prev
        self.segments = recovered.segments
        self._capacity.used = sum(segment.size for segment in self.segments)
        self._waiting = unwritten.lines
        self._waiting_bytes = sum(map(len, self._waiting)) + len(self._waiting)
        self._buffer_limit = min(self._max_waiting, self._buffer.capacity * 4 // 5)
        self._format = b'{"spool":"%b","seq":%%d,"prev":"%%b",%%b' % head.spool.encode()

    def _next_chunk(self) -> tuple[list[bytes], int]:
        limit, waiting = min(_CHUNK, self._segment_bytes), self._waiting
        size, count = sum(map(len, waiting)) + len(waiting), 0
        if size <= limit:
            return waiting[:], size
        size = 0
        for line in waiting:
            if count and size + len(line) + 1 > limit:
                break
            size += len(line) + 1
            count += 1
        return waiting[:count], size

    def _count_written(self, chunk: Sequence[bytes], segment: Segment) -> None:
        size = sum(map(len, chunk)) + len(chunk)
        self._waiting_bytes -= size
        self._capacity.add(size)
        self.committed += len(chunk)
        self._committed_seq = self.next_seq - 1 - len(self._waiting)
        self._committed_line = chunk[-1]
        if self._buffer is not None:
            self._buffer.release(self._committed_seq, len(chunk))
        if self.segments and self.segments[-1].first == segment.first:
            self.segments[-1].size = segment.size
        else:
            self.segments.append(segment)

    def _adopt_buffer(self, buffer: LineBuffer) -> None:
        """Continue with an empty buffer: it gets the lines that wait."""
        self._buffer = buffer
        buffer.begin(self.spool_id, self._committed_seq)
        buffer.in_flight[0] = self.in_flight[0]
        self.in_flight = buffer.in_flight
        for seq, line in enumerate(self._waiting, self.next_seq - len(self._waiting)):
            buffer.put(line, line_hash(line), seq, len(line) + 1)

    def _forget_missing_segments(self) -> None:
        there = [segment for segment in self.segments if segment.path.exists()]
        if len(there) == len(self.segments):
            return
        first = max((self._shipped_seq or 0) + 1, self.segments[0].first)
        last = there[0].first - 1 if there else self._committed_seq
        self._capacity.free(self._capacity.used - sum(segment.size for segment in there))
        self.segments = there
        self._new_first = last + 1
        if first <= last:
            self._losses.report(self.spool_id, MissingEvents(first, last))

    def _forget_cut_lines(self, lines: int, size: int) -> None:
        """Name the lines that the last segment has lost. It still has these."""
        segment = self.segments[-1]
        first = max((self._shipped_seq or 0) + 1, segment.first + lines)
        self._capacity.free(segment.size - size)
        segment.size = size
        if first <= self._committed_seq:
            self._losses.report(self.spool_id, MissingEvents(first, self._committed_seq))

    def _recorded_first(self) -> int | None:
        """Return the new first number for the head once its gap is recorded. Only once."""
        if self._losses.facts or self._committed_seq < self._fact_seq:
            return None
        first, self._new_first = self._new_first, None
        return first
