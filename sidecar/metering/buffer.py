"""The buffer of a spool: a file that holds each line until it is durable in a segment.

The file is mapped into memory. A line is in the kernel's hands as soon as it is copied there, so
it survives the death of the process. Only a loss of power can cost it. The file's blocks on the
disk are allocated at the start, so it also takes lines while the disk is full.

Each record is a line and the hash of that line, both with a newline. A record that was being
copied when the process ended does not fit its hash. The records fill blocks, and a block is used
again once its lines are in a segment. The header says how far the segments were written, and how
many requests are in flight: after a kill, Redis may have counted them, and they have no event.
"""

import errno
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.files import Files

BUFFER_NAME: Final = ".buffer.map"  # hidden: tools that read lines skip it
HEADER_BYTES: Final = 4096
MAGIC: Final = b"sidecar-spool-buffer-1"
NUMBERS: Final = struct.Struct("<QQQ")  # last number in a segment, largest batch, 1: closed
NUMBERS_AT: Final = 256
IN_FLIGHT_AT: Final = 288
IN_FLIGHT: Final = struct.Struct("q")  # as a memoryview writes it
RECORD_BYTES: Final = 65  # of a record, in addition to a line: its hash and a newline
_MIN_BYTES: Final = 64 << 10
_PAGE: Final = 4096
_MAX_BLOCK: Final = 2 << 20  # more than the longest line
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class LineBuffer:
    """Lines that no segment has yet, in the order of their numbers. Belongs to one thread.

    `capacity`: bytes for records. `kept`: blocks with lines of the last process, oldest first, and
    the number of the last line in each; then the file keeps its size. `in_flight[0]`: the number
    of requests in flight, which the gate counts.
    """

    def __init__(
        self, path: Path, wanted: int, files: Files, kept: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.path = path
        self._files = files
        self._fd = _allocated(path, 0 if kept else _size(path, wanted), files)
        size = os.fstat(self._fd).st_size
        self._map = mmap.mmap(self._fd, size)
        whole = memoryview(self._map)
        self.in_flight = whole[IN_FLIGHT_AT : IN_FLIGHT_AT + IN_FLIGHT.size].cast("q")
        whole.release()
        self._block = block_bytes(size)
        blocks = (size - HEADER_BYTES) // self._block
        self.capacity = blocks * self._block
        self._filled: list[tuple[int, int]] = list(kept)
        taken = {block for block, _ in kept}
        self._unused: list[int] = [block for block in range(blocks) if block not in taken]
        self._current = -1
        self._at = 0
        self._end = 0
        self._last = 0  # number of the last line
        self._batch = 0
        self._committed = 0

    def begin(self, spool: str, committed_seq: int) -> None:
        """Write the header: all lines up to this number are in segments. Blocks.

        It is synced, so that a start after a power failure can tell that the stop was unclean.
        """
        names = b"%b\n%b\n%b\n" % (MAGIC, spool.encode(), boot_id().encode())
        self._map[:NUMBERS_AT] = names[:NUMBERS_AT].ljust(NUMBERS_AT)
        self.in_flight[0] = 0
        self._write_numbers(committed_seq)
        self._files.sync(self._fd)

    def _write_numbers(self, committed_seq: int, closed: bool = False) -> None:
        self._committed = committed_seq
        numbers = NUMBERS.pack(committed_seq, self._batch, closed)
        self._map[NUMBERS_AT : NUMBERS_AT + NUMBERS.size] = numbers

    def put(self, line: bytes, digest: bytes, seq: int, size: int) -> bool:
        """Keep a line, which has this hash and number. Returns False if it does not fit.

        `size`: bytes of the line and its newline.
        """
        size += RECORD_BYTES
        at = self._at
        end = at + size
        if end > self._end:
            if not self._unused or size > self._block:
                return False
            if self._current >= 0:
                self._filled.append((self._current, self._last))
            self._current = self._unused.pop(0)
            at = HEADER_BYTES + self._current * self._block
            self._end = at + self._block
            end = at + size
        self._map[at:end] = b"%b\n%b\n" % (line, digest)
        self._at = end
        self._last = seq
        return True

    def release(self, seq: int, lines: int) -> None:
        """Forget the lines up to this number; the last `lines` of them were written together."""
        filled = self._filled
        while filled and filled[0][1] <= seq:
            self._unused.append(filled.pop(0)[0])
            self._unused.sort()  # few blocks stay in use, so few pages get dirty
        if self._current >= 0 and self._last <= seq:
            self._at = HEADER_BYTES + self._current * self._block
        self._batch = max(self._batch, lines)
        self._write_numbers(seq)

    def in_place(self) -> bool:
        """Whether the file still has its name. Blocks."""
        return same_file(self.path, self._fd)

    def close(self, *, remove: bool) -> None:
        """Unmap the file; `remove` it if all its lines are in segments. Raises OSError."""
        self._write_numbers(self._committed, closed=True)
        self.in_flight.release()
        self._map.close()
        try:
            if remove and self.in_place():
                self.path.unlink()
        finally:
            os.close(self._fd)


def block_bytes(size: int) -> int:
    """The size of a block in a buffer file of this size."""
    eighth = (size - HEADER_BYTES) // 8 // _PAGE * _PAGE
    return max(_PAGE, min(eighth, _MAX_BLOCK))


def _size(path: Path, wanted: int) -> int:
    """The size of the file: what is wanted, but at most half of the free space."""
    disk = os.statvfs(path.parent)
    free = disk.f_bavail * disk.f_frsize
    if path.exists():
        free += path.stat().st_size
    return max(_MIN_BYTES, min(wanted, free // 2)) // _PAGE * _PAGE + HEADER_BYTES


def _allocated(path: Path, size: int, files: Files) -> int:
    """Open the file with `size` bytes, all of them allocated; 0: as it is. Raises OSError."""
    fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        while size:
            try:
                files.truncate(fd, size)
                files.allocate(fd, 0, size)
                break
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                size = size // 2 // _PAGE * _PAGE
                if size < _MIN_BYTES:
                    raise
    except OSError:
        os.close(fd)
        raise
    return fd


def same_file(path: Path, fd: int) -> bool:
    """Whether `path` names the open file. Blocks."""
    try:
        there, here = path.stat(), os.fstat(fd)
    except OSError:
        return False
    return there.st_ino == here.st_ino and there.st_dev == here.st_dev


def boot_id() -> str:
    """Identifies the machine's run since its last start; "" if unknown."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
