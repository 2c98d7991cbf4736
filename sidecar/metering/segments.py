"""The spool's files: segments, their lines, and the head.

The name of a segment is the sequence number of its first event. A line is one CloudEvent, with
the extension attributes of the chain first:

    {"spool":"<uuid>","seq":17,"prev":"<sha256 of the line before, without newline>", …event…}
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from sidecar.files import Files

MAX_LINE: Final = 1 << 20  # bytes, newline included; far more than any event
NO_LINE: Final = b"0" * 64  # `prev` of the first line of a spool
HEAD_NAME: Final = "head.json"
_SEGMENT_NAME: Final = re.compile(r"[0-9]{20}\.jsonl")


@dataclass(slots=True)
class Segment:
    """One file of events. `size`: committed bytes; a reader must ignore later ones."""

    first: int
    path: Path
    size: int


class LinePosition(NamedTuple):
    """The position of a line in the chain, and its event."""

    spool: str
    seq: int
    prev: bytes
    event: dict[str, Any]


class Head(NamedTuple):
    """The ends of the chain. Survives the deletion of all segments.

    `first`: number of the oldest event that was not deleted after shipping; 0: unknown.
    """

    spool: str
    next_seq: int
    prev: bytes
    first: int = 0


class RawLine(NamedTuple):
    """Bytes of a file between newlines. `whole`: whether the newline is present."""

    offset: int
    text: bytes
    whole: bool

    @property
    def end(self) -> int:
        """Offset of the byte after the line and its newline."""
        return self.offset + len(self.text) + self.whole


class InvalidLine(NamedTuple):
    """A line that is not an event, or that does not fit the line before it."""

    file: str
    line: int  # from 1
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


def segment_path(directory: Path, first: int) -> Path:
    """Return the segment file whose first event has this number."""
    return directory / f"{first:020d}.jsonl"


def list_segments(directory: Path) -> list[Segment]:
    """Return all segments, oldest first, with their current size. Raises OSError."""
    segments = []
    for path in directory.iterdir():
        if _SEGMENT_NAME.fullmatch(path.name):
            try:
                segments.append(Segment(int(path.stem), path, path.stat().st_size))
            except FileNotFoundError:  # shipped and deleted after the listing
                continue
    return sorted(segments, key=lambda segment: segment.first)


def raw_lines(path: Path) -> Iterator[RawLine]:
    """Yield the lines of a file in bounded memory: lines beyond MAX_LINE come in pieces."""
    offset = 0
    with path.open("rb") as file:
        while piece := file.readline(MAX_LINE):
            whole = piece.endswith(b"\n")
            yield RawLine(offset, piece[:-1] if whole else piece, whole)
            offset += len(piece)


def numbered_prefix(path: Path, first: int) -> tuple[int, int]:
    """Return how many lines at the start of a segment have their numbers, and their bytes.

    Raises OSError.
    """
    lines = size = 0
    for raw in raw_lines(path):
        position = parse_line(raw.text) if raw.whole else None
        if position is None or position.seq != first + lines:
            break
        lines += 1
        size = raw.end
    return lines, size


def line_hash(line: bytes) -> bytes:
    """Return the SHA-256 of a line in hex: the `prev` of the next line."""
    return hashlib.sha256(line).hexdigest().encode()


def parse_line(line: bytes) -> LinePosition | None:
    """Return the position of a line in the chain; None if it is not an event of a spool."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict):
        return None
    spool, seq, prev = event.get("spool"), event.get("seq"), event.get("prev")
    if not (isinstance(spool, str) and type(seq) is int and isinstance(prev, str)) or seq < 1:
        return None
    return LinePosition(spool, seq, prev.encode(), event)


def read_head(directory: Path) -> Head | None:
    """Return the head; None if the file is missing or invalid. Raises OSError."""
    try:
        value = orjson.loads((directory / HEAD_NAME).read_bytes())
        spool, next_seq, prev = value["spool"], value["next_seq"], value["prev"]
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if not (isinstance(spool, str) and type(next_seq) is int and isinstance(prev, str)):
        return None
    first = value.get("first", 0)
    return Head(spool, next_seq, prev.encode(), first if type(first) is int else 0)


def write_head(files: Files, directory: Path, head: Head) -> None:
    """Replace the head file atomically. Raises OSError."""
    value: dict[str, str | int] = {
        "spool": head.spool,
        "next_seq": head.next_seq,
        "prev": head.prev.decode(),
    }
    if head.first:
        value["first"] = head.first
    files.replace(directory / HEAD_NAME, orjson.dumps(value) + b"\n")
