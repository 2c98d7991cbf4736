"""The blocks of a spool's buffer: full, and used again as soon as their lines are in a segment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.files import Files
from sidecar.metering.buffer import BUFFER_NAME, HEADER_BYTES, RECORD_BYTES, LineBuffer, block_bytes
from sidecar.metering.segments import NO_LINE, Head, line_hash
from sidecar.metering.unwritten import read_unwritten

LINE = b"x" * 1_000
SIZE = len(LINE) + 1


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[LineBuffer]:
    """The smallest buffer."""
    buffer = LineBuffer(tmp_path / BUFFER_NAME, 0, Files())
    buffer.begin("spool", 0)
    yield buffer
    buffer.close(remove=True)


def lines_per_block(buffer: LineBuffer) -> int:
    return block_bytes(HEADER_BYTES + buffer.capacity) // (SIZE + RECORD_BYTES)


def fill(buffer: LineBuffer, first: int) -> int:
    """Put lines until one does not fit, and return that number."""
    seq = first
    while buffer.put(LINE, line_hash(LINE), seq, SIZE):
        seq += 1
    return seq


def test_I9_a_full_buffer_takes_lines_again_for_each_block_that_was_written(
    buffer: LineBuffer,
) -> None:
    per_block = lines_per_block(buffer)
    following = fill(buffer, 1)
    assert per_block > 1 and (following - 1) % per_block == 0
    buffer.release(per_block - 1, 1)
    assert fill(buffer, following) == following
    buffer.release(per_block, 1)
    assert fill(buffer, following) == following + per_block


def test_a_buffer_whose_lines_are_all_written_is_empty(buffer: LineBuffer) -> None:
    following = fill(buffer, 1)
    buffer.release(following - 1, 1)
    assert fill(buffer, following) == 2 * following - 1


def test_I9_a_line_that_is_longer_than_a_block_does_not_fit(buffer: LineBuffer) -> None:
    long = b"x" * block_bytes(HEADER_BYTES + buffer.capacity)
    assert not buffer.put(long, line_hash(long), 1, len(long) + 1)


def test_a_stop_with_lines_that_the_disk_refused_is_clean(tmp_path: Path) -> None:
    head, path = Head("spool", 1, NO_LINE), tmp_path / BUFFER_NAME
    buffer = LineBuffer(path, 0, Files())
    buffer.begin("spool", 0)
    line = b'{"spool":"spool","seq":1,"prev":"%b","id":"a"}' % NO_LINE
    assert buffer.put(line, line_hash(line), 1, len(line) + 1)
    assert read_unwritten(path, head).unclean  # as after a kill
    buffer.close(remove=False)
    left = read_unwritten(path, head)
    assert (left.lines, left.unclean) == ([line], False)
