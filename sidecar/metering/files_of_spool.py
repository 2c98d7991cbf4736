"""The open files of a spool: lock, buffer and segment writer. Opens them, also again.

The functions block. The spool calls `open_files` at its start, and `reopen_files` on its worker
thread when files are missing.
"""

import os
from pathlib import Path
from typing import NamedTuple

from sidecar.errors import SpoolError
from sidecar.files import Files
from sidecar.metering.buffer import BUFFER_NAME, LineBuffer, same_file
from sidecar.metering.lock import take_lock
from sidecar.metering.recovery import RecoveryResult, recover
from sidecar.metering.writer import SegmentWriter


class SpoolFiles(NamedTuple):
    """What `open_files` opened and recovered."""

    lock: int
    recovered: RecoveryResult
    buffer: LineBuffer
    writer: SegmentWriter


def open_files(directory: Path, segment_bytes: int, buffer_bytes: int, files: Files) -> SpoolFiles:
    """Lock the directory, repair it after a crash, and open its files. Raises SpoolError."""
    lock = take_lock(directory, files)
    try:
        recovered = recover(directory, files)
        unwritten = recovered.unwritten
        buffer = LineBuffer(directory / BUFFER_NAME, buffer_bytes, files, unwritten.blocks)
        buffer.begin(unwritten.head.spool, unwritten.first - 1)
        files.sync_directory(directory)
        writer = SegmentWriter(directory, recovered, segment_bytes, files, buffer, lock)
    except OSError as error:
        os.close(lock)
        raise SpoolError(
            f"--spool: {directory} cannot be read and repaired: {error.strerror}; "
            "check the disk, or name another directory with --spool DIR (SIDECAR_SPOOL)"
        ) from None
    return SpoolFiles(lock, recovered, buffer, writer)


def reopen_files(
    directory: Path,
    buffer_bytes: int,
    lock: int,
    writer: SegmentWriter,
    files: Files,
    create: bool,
) -> tuple[int, LineBuffer]:
    """Replace the files that lost their names. Returns the lock and the buffer.

    `create`: the directory, if it is missing. Raises OSError if it is missing, SpoolError if
    another process uses it.
    """
    if not create:
        directory.stat()
    if not same_file(directory / "lock", lock):
        lock = take_lock(directory, files)
    writer.forget_missing_segment()
    writer.restore_head()
    buffer = writer.buffer
    if not buffer.in_place():
        buffer = LineBuffer(directory / BUFFER_NAME, buffer_bytes, files)
        files.sync_directory(directory)
    return lock, buffer
