"""Writer of the open segment. It runs on the spool's worker thread and may block."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from sidecar.errors import SpoolFilesMissing
from sidecar.files import Files
from sidecar.metering.buffer import LineBuffer, same_file
from sidecar.metering.recovery import RecoveryResult
from sidecar.metering.segments import (
    HEAD_NAME,
    Head,
    Segment,
    line_hash,
    numbered_prefix,
    segment_path,
    write_head,
)

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class SegmentWriter:
    """Durable appends of whole lines. A failed append leaves the segment as it was.

    `buffer`: the file that holds the lines until then. `lock`: that of the directory.
    """

    def __init__(
        self,
        directory: Path,
        recovered: RecoveryResult,
        segment_bytes: int,
        files: Files,
        buffer: LineBuffer,
        lock: int,
    ) -> None:
        self.buffer = buffer
        self.lock = lock
        self.checks = 0  # how often `check` has run
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._files = files
        self._head = recovered.head
        self._last_line: bytes | None = None  # hashed only when the head is written
        self._fd: int | None = None
        self._segment: Segment | None = None
        self._lost_lines = False
        self._cut: tuple[int, int] | None = None
        self._dirty = False  # bytes may follow `size`: cut them before the next write
        if recovered.segments and recovered.appendable:
            last = recovered.segments[-1]
            self._fd = files.open(last.path, _APPEND, 0o640)
            self._segment = Segment(last.first, last.path, last.size)

    def write(self, first: int, lines: Sequence[bytes]) -> Segment:
        """Append lines without newlines; `first` is the sequence number of the first line.

        Returns their segment with its new size. Raises OSError.
        """
        data = b"\n".join(lines) + b"\n"
        segment, fd = self._segment_for(first, len(data))
        if self._dirty:
            self._check_lines(segment, fd, segment.size)  # else this would fill it with zeros
            self._files.truncate(fd, segment.size)
        self._dirty = True
        try:
            self._files.write_all(fd, data)
            # After a failed sync the kernel may drop dirty pages, and the next sync succeeds
            # without them. So the retry must write the lines again.
            self._files.sync(fd)
        except OSError:
            self._files.truncate(fd, segment.size)
            raise
        # Afterwards: the files were in place when the lines reached the disk.
        self._check(segment.size + len(data))
        self._dirty = False
        segment.size += len(data)
        self._last_line = lines[-1]
        self._head = self._head._replace(next_seq=first + len(lines))
        return Segment(segment.first, segment.path, segment.size)

    def check(self) -> None:
        """Raise SpoolFilesMissing if the open segment, the buffer or the lock lost its name.

        Or if the segment has lost lines: a tool may empty a file that it cannot move.
        """
        self._check(0 if self._segment is None else self._segment.size)

    def _check(self, size: int) -> None:
        self.checks += 1
        segment, fd = self._segment, self._fd
        lost = segment is not None and fd is not None and not same_file(segment.path, fd)
        in_place = self.buffer.in_place() and same_file(self._directory / "lock", self.lock)
        if lost or not in_place:
            raise self._missing()
        if segment is not None and fd is not None:
            self._check_lines(segment, fd, size)

    def _check_lines(self, segment: Segment, fd: int, size: int) -> None:
        if os.fstat(fd).st_size < size:
            self._lost_lines = True
            raise SpoolFilesMissing(errno.ENOENT, f"{segment.path} has lost lines")

    def _missing(self) -> SpoolFilesMissing:
        problem = f"files of the spool are missing from {self._directory}"
        return SpoolFilesMissing(errno.ENOENT, problem)

    def forget_missing_segment(self) -> None:
        """Close the open segment if it lost its name or lines; the next write opens a new one.

        Raises OSError.
        """
        segment, fd = self._segment, self._fd
        if segment is None or fd is None:
            return
        if same_file(segment.path, fd):
            if not self._lost_lines:
                return
            self._keep_whole_lines(segment, fd)
        os.close(fd)
        self._segment = self._fd = None
        self._lost_lines = False

    def _keep_whole_lines(self, segment: Segment, fd: int) -> None:
        """Cut what follows the lines that are left: they are written again, elsewhere."""
        lines, size = numbered_prefix(segment.path, segment.first)
        if lines:
            self._files.truncate(fd, size)
            self._cut = lines, size
        else:
            self._files.remove(segment.path)

    def take_cut(self) -> tuple[int, int] | None:
        """Return the lines and bytes that a segment with lost lines still has. Only once."""
        cut, self._cut = self._cut, None
        return cut

    def _segment_for(self, first: int, size: int) -> tuple[Segment, int]:
        segment, fd = self._segment, self._fd
        if segment is not None and fd is not None and self._fits(segment, size):
            return segment, fd
        path = segment_path(self._directory, first)
        try:
            new = self._files.open(path, _APPEND | os.O_TRUNC, 0o640)
        except FileNotFoundError:
            raise self._missing() from None
        try:
            self._files.sync_directory(self._directory)
            write_head(self._files, self._directory, self._current_head())
        except OSError:
            os.close(new)
            raise
        if fd is not None:
            os.close(fd)
        self._segment, self._fd, self._dirty = Segment(first, path, 0), new, False
        return self._segment, new

    def _fits(self, segment: Segment, size: int) -> bool:
        return segment.size == 0 or segment.size + size <= self._segment_bytes

    def remove(self, paths: Sequence[Path], first: int) -> None:
        """Delete shipped segments, after the head is durable. Raises OSError.

        `first`: number of the oldest event that stays.
        """
        self._head = self._head._replace(first=first)
        self._write_head()
        for path in paths:
            self._files.remove(path)

    def record_first(self, first: int) -> None:
        """Write the head: the events before `first` are shipped, or named as missing.

        Raises OSError.
        """
        self._head = self._head._replace(first=max(first, self._head.first))
        self._write_head()

    def restore_head(self) -> None:
        """Write the head if it is missing: without it, a start ignores the buffer.

        Raises OSError.
        """
        if not (self._directory / HEAD_NAME).exists():
            self._write_head()

    def _write_head(self) -> None:
        write_head(self._files, self._directory, self._current_head())
        self._files.sync_directory(self._directory)

    def close(self) -> None:
        """Write the head and close the segment. Raises OSError."""
        try:
            write_head(self._files, self._directory, self._current_head())
        finally:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _current_head(self) -> Head:
        if self._last_line is not None:
            self._head = self._head._replace(prev=line_hash(self._last_line))
            self._last_line = None
        return self._head
