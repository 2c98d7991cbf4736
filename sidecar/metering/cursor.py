"""The cursor of a sink: how far it has come. One small file, replaced after each delivery."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from sidecar.files import Files
from sidecar.logs import logger
from sidecar.metering.segments import Segment

_log = logger("shipper")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a spool: the last delivered event, and the offset of the next line."""

    spool: str
    seq: int
    segment: int  # number of its first event
    offset: int  # in the segment, in bytes


def cursor_path(directory: Path, sink: str) -> Path:
    """Return the cursor file of a sink."""
    return directory / f"cursor-{sink}.json"


def save_cursor(files: Files, path: Path, cursor: Cursor) -> None:
    """Replace the cursor file atomically. Raises OSError."""
    files.replace(path, orjson.dumps(asdict(cursor)) + b"\n")


def load_cursor(
    path: Path, spool: str, next_seq: int, segments: Sequence[Segment], next_written: int
) -> Cursor:
    """Return where the sink continues.

    `next_written`: number of the next event that a segment gets.
    A new sink, or one whose cursor does not fit the spool, starts at the oldest event: readers
    recognise a copy by its id, but cannot recover an event that was never sent.
    """
    saved = _read(path)
    if saved is None and not path.exists():
        return _oldest(spool, next_written, segments)
    problem = "unreadable" if saved is None else _problem(saved, spool, next_seq, segments)
    if saved is not None and problem is None:
        if not segments or any(segment.first == saved.segment for segment in segments):
            return saved
        return Cursor(spool, saved.seq, segments[0].first, 0)
    start = _oldest(spool, next_written, segments)
    _log.error("cursor_reset", cursor=str(path), error=problem, next_seq=start.seq + 1)
    return start


def _oldest(spool: str, next_written: int, segments: Sequence[Segment]) -> Cursor:
    first = segments[0].first if segments else next_written
    return Cursor(spool, first - 1, first, 0)


def _read(path: Path) -> Cursor | None:
    try:
        value = orjson.loads(path.read_bytes())
        cursor = Cursor(value["spool"], value["seq"], value["segment"], value["offset"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    numbers = (cursor.seq, cursor.segment, cursor.offset)
    return cursor if all(type(n) is int and n >= 0 for n in numbers) else None


def _problem(cursor: Cursor, spool: str, next_seq: int, segments: Sequence[Segment]) -> str | None:
    """Return why this cursor does not fit the spool; None if it fits."""
    if cursor.spool != spool:
        return "belongs to another spool"
    if cursor.seq >= next_seq:
        return f"past the end: {cursor.seq} of {next_seq - 1}"
    for segment in segments:
        if segment.first == cursor.segment:
            return None if _at_line_start(segment, cursor.offset) else "points inside a line"
    if segments and segments[0].first > cursor.seq + 1:
        return f"events {cursor.seq + 1} to {segments[0].first - 1} are deleted"
    if segments and segments[0].first <= cursor.seq:
        return "segment is missing"
    return None


def _at_line_start(segment: Segment, offset: int) -> bool:
    if offset == 0:
        return True
    if offset > segment.size:
        return False
    with segment.path.open("rb") as file:
        file.seek(offset - 1, os.SEEK_SET)
        return file.read(1) == b"\n"
