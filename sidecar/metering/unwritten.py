"""Lines that the last process left in its buffer: those that no segment has.

A record counts if its hash fits and if it continues the chain. So a record that was being copied
when the process ended is ignored, and so are records from an earlier use of a block.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.metering.buffer import (
    HEADER_BYTES,
    IN_FLIGHT,
    IN_FLIGHT_AT,
    MAGIC,
    NUMBERS,
    NUMBERS_AT,
    block_bytes,
    boot_id,
)
from sidecar.metering.segments import Head, line_hash, parse_line

_DIGEST: Final = 64  # characters of a hash


class BufferHeader(NamedTuple):
    """The header of the last process. `committed_seq`: the last line that a segment had.

    `batch`: the most lines that were written at once. `in_flight`: requests in flight.
    """

    spool: str
    boot: str
    committed_seq: int
    batch: int
    closed: bool
    in_flight: int


@dataclass(slots=True)
class Unwritten:
    """The lines of a buffer that no segment has. `head` is the end of the chain with them.

    `missing`: numbers before these lines that a segment had, and that are not there now.
    `blocks`: the blocks with these lines, and the last number in each.
    """

    head: Head
    lines: list[bytes] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)
    missing: tuple[int, int] | None = None
    written_seq: int = 0  # the last line that the process had written to a segment
    unclean: bool = False  # the last process did not close the buffer
    machine_stopped: bool = False  # then lines may be missing that were in memory only
    batch: int = 0
    in_flight: int = 0  # requests without an event, which Redis may have counted

    @property
    def first(self) -> int:
        """Number of the first of the lines."""
        return self.head.next_seq - len(self.lines)


def read_unwritten(path: Path, head: Head) -> Unwritten:
    """Return the lines after `head` in the buffer of the last process. Raises OSError."""
    result = Unwritten(head)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return result
    try:
        header = _header(os.pread(fd, HEADER_BYTES, 0))
        if header is None or header.spool != head.spool:
            return result
        result.unclean = not header.closed
        result.batch, result.written_seq = header.batch, header.committed_seq
        result.machine_stopped = header.boot != boot_id()
        result.in_flight = header.in_flight
        after = max(head.next_seq, header.committed_seq + 1)
        if after > head.next_seq:
            result.missing = head.next_seq, after - 1
        _follow(result, after, _records(fd, after, head.spool))
    finally:
        os.close(fd)
    return result


def _header(data: bytes) -> BufferHeader | None:
    names = data[:NUMBERS_AT].split(b"\n")
    if len(data) < HEADER_BYTES or names[0] != MAGIC or len(names) < 3:
        return None
    committed, batch, closed = NUMBERS.unpack_from(data, NUMBERS_AT)
    spool, boot = (name.decode(errors="replace") for name in names[1:3])
    [in_flight] = IN_FLIGHT.unpack_from(data, IN_FLIGHT_AT)
    return BufferHeader(spool, boot, committed, batch, bool(closed), max(0, in_flight))


def _records(fd: int, after: int, spool: str) -> dict[int, list[tuple[bytes, bytes, int]]]:
    """Return (line, prev, block) of the sound records by number, from `after` on."""
    size = os.fstat(fd).st_size
    block_size = block_bytes(size)
    start = b'{"spool":"%b","seq":' % spool.encode()
    found: dict[int, list[tuple[bytes, bytes, int]]] = {}
    for block in range((size - HEADER_BYTES) // block_size):
        data = os.pread(fd, block_size, HEADER_BYTES + block * block_size)
        for line, digest in _pairs(data):
            if len(digest) != _DIGEST or not line.startswith(start):
                continue
            number = line[len(start) : len(start) + 20].partition(b",")[0]
            if not number.isdigit() or int(number) < after or line_hash(line) != digest:
                continue
            position = parse_line(line)
            if position is not None:
                found.setdefault(position.seq, []).append((line, position.prev, block))
    return found


def _pairs(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if data[:1] == b"\0":
        return  # never used
    pieces = data.split(b"\n")
    yield from pairwise(pieces)


def _follow(
    result: Unwritten, after: int, records: dict[int, list[tuple[bytes, bytes, int]]]
) -> None:
    """Take the records that follow each other from number `after` on."""
    prev: bytes | None = result.head.prev if result.missing is None else None
    seq = after
    while True:
        fitting = [one for one in records.get(seq, ()) if prev is None or one[1] == prev]
        if not fitting:
            break
        line, _, block = fitting[0]
        prev = line_hash(line)
        result.lines.append(line)
        if result.blocks and result.blocks[-1][0] == block:
            result.blocks[-1] = block, seq
        else:
            result.blocks.append((block, seq))
        seq += 1
    result.head = result.head._replace(next_seq=seq, prev=prev or result.head.prev)
