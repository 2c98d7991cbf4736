"""What the spool's directory looks like on disk: segment files, their lines, the head file.

A segment is named after the sequence number of its first event. A line is one CloudEvent
whose first attributes are the extension attributes of the chain:

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

MAX_LINE: Final = 1 << 20  # bytes, newline included; no event comes near
NO_LINE: Final = b"0" * 64  # `prev` of the first line of a spool
HEAD_NAME: Final = "head.json"
_SEGMENT_NAME: Final = re.compile(r"[0-9]{20}\.jsonl")


@dataclass(slots=True)
class Segment:
    """One file of events. `size`: bytes that are committed; later ones are not there yet."""

    first: int
    path: Path
    size: int


class LinePosition(NamedTuple):
    """Where a line stands in the chain."""

    spool: str
    seq: int
    prev: bytes
    event: dict[str, Any]


class Head(NamedTuple):
    """Where the next line goes: survives the deletion of all segments."""

    spool: str
    next_seq: int
    prev: bytes


class RawLine(NamedTuple):
    """Bytes of a file between newlines; `whole` is False when the newline is missing."""

    offset: int
    text: bytes
    whole: bool

    @property
    def end(self) -> int:
        """The offset of the byte after it."""
        return self.offset + len(self.text) + self.whole


def segment_path(directory: Path, first: int) -> Path:
    """The file whose first event has this sequence number."""
    return directory / f"{first:020d}.jsonl"


def list_segments(directory: Path) -> list[Segment]:
    """All segments, oldest first, with their size now. Raises OSError."""
    found = []
    for path in directory.iterdir():
        if _SEGMENT_NAME.fullmatch(path.name):
            try:
                found.append(Segment(int(path.stem), path, path.stat().st_size))
            except FileNotFoundError:  # shipped and deleted since it was listed
                continue
    return sorted(found, key=lambda segment: segment.first)


def raw_lines(path: Path) -> Iterator[RawLine]:
    """The lines of a file in bounded memory: what is longer than MAX_LINE comes in pieces."""
    offset = 0
    with path.open("rb") as file:
        while piece := file.readline(MAX_LINE):
            whole = piece.endswith(b"\n")
            yield RawLine(offset, piece[:-1] if whole else piece, whole)
            offset += len(piece)


def line_hash(line: bytes) -> bytes:
    """What the next line carries as `prev`."""
    return hashlib.sha256(line).hexdigest().encode()


def read_mark(line: bytes) -> LinePosition | None:
    """The place of a line in the chain; None when it is not an event line at all."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict):
        return None
    spool, seq, prev = event.get("spool"), event.get("seq"), event.get("prev")
    if not (isinstance(spool, str) and type(seq) is int and isinstance(prev, str)):
        return None
    return LinePosition(spool, seq, prev.encode(), event)


def read_head(directory: Path) -> Head | None:
    """The head file; None when there is none or it cannot be read as one. Raises OSError."""
    try:
        value = orjson.loads((directory / HEAD_NAME).read_bytes())
        spool, next_seq, prev = value["spool"], value["next_seq"], value["prev"]
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if not (isinstance(spool, str) and type(next_seq) is int and isinstance(prev, str)):
        return None
    return Head(spool, next_seq, prev.encode())


def write_head(files: Files, directory: Path, head: Head) -> None:
    """Replace the head file in one step. Raises OSError."""
    value = {"spool": head.spool, "next_seq": head.next_seq, "prev": head.prev.decode()}
    files.replace(directory / HEAD_NAME, orjson.dumps(value) + b"\n")
