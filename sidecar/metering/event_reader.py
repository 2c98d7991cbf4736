"""Reader of recorded events: from spools and from files of sinks, also rotated or compressed ones.

Files may grow, and be renamed, rotated or deleted between two passes. Inode and first bytes
identify a file, and each pass continues where the last one ended. A last line without a newline
is left for the next pass.
"""

import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import orjson

from sidecar.core.events.read import (
    OVERAGE,
    REFUSAL,
    REQUEST,
    UNCLEAN_STOP,
    EventParser,
    InvalidEvent,
    RecordedRequest,
    RecordedStop,
    read_stop,
)
from sidecar.errors import SpoolError
from sidecar.metering.gaps import SequenceCoverage
from sidecar.metering.segments import HEAD_NAME, MAX_LINE, InvalidLine, read_head

MAX_LISTED: Final = 100  # broken lines listed with file and line; all are counted
MAX_STOPS: Final = 100_000
_FIRST_BYTES: Final = 160  # bytes that include the position in the chain of the first line
_EVENT_FILE: Final = re.compile(r".+\.jsonl(\.[0-9]+)?(\.gz)?")
_WORKER: Final = re.compile(r"worker-[0-9]+")
_HEADS: Final = (HEAD_NAME, f"worker-*/{HEAD_NAME}")
_FileId = tuple[int, int, bytes]  # device, inode, first bytes


@dataclass(slots=True)
class ReadSummary:
    """What all passes together have read.

    `refused`: recorded refusals by account. `stops`: each unclean stop once, by source and id.
    """

    files: int = 0
    requests: int = 0  # including copies
    others: int = 0  # events of other types
    refused: dict[str, int] = field(default_factory=dict)
    stops: dict[tuple[str, str], RecordedStop] = field(default_factory=dict)
    broken: int = 0
    broken_lines: list[InvalidLine] = field(default_factory=list)
    vanished: int = 0  # files deleted before they could be read

    def as_json(self) -> dict[str, Any]:
        """Return the JSON members."""
        return {
            "files": self.files,
            "requests": self.requests,
            "other_events": self.others,
            "broken_lines": self.broken,
            "broken": [str(line) for line in self.broken_lines],
        }


class EventReader:
    """Reader of all events below some paths. `coverage`, if given, records sequence numbers.

    `with_overage`: overage events are read too, as requests without units.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        coverage: SequenceCoverage | None = None,
        with_overage: bool = False,
    ) -> None:
        self.summary = ReadSummary()
        self._paths = paths
        self._coverage = coverage
        self._with_overage = with_overage
        self._parser = EventParser()
        self._read_to: dict[_FileId, tuple[int, int]] = {}  # offset, lines

    def new_requests(self) -> Iterator[RecordedRequest]:
        """Yield the requests that no earlier pass has read, in any order, with copies.

        Raises SpoolError if a path cannot be read.
        """
        files = event_files(self._paths)
        self._read_heads(files)
        for path in files:
            try:
                with _opened(path) as (file, file_id):
                    yield from self._requests(path, file, file_id)
            except FileNotFoundError:
                self.summary.vanished += 1
            except (OSError, EOFError, zlib.error) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise SpoolError(f"{path}: cannot be read: {reason}") from None

    def _read_heads(self, files: Sequence[Path]) -> None:
        """Read heads before events: a spool in use only moves forward."""
        if self._coverage is None:
            return
        for directory in {*self._paths, *(path.parent for path in files)}:
            try:
                head = read_head(directory) if directory.is_dir() else None
            except OSError as error:
                reason = error.strerror
                raise SpoolError(f"{directory / HEAD_NAME}: cannot be read: {reason}") from None
            if head is not None:
                self._coverage.add_head(head.spool, head.next_seq)

    def _requests(self, path: Path, file: IO[bytes], file_id: _FileId) -> Iterator[RecordedRequest]:
        offset, number = self._read_to.get(file_id, (0, 0))
        self.summary.files += offset == 0
        if offset:  # a pipe cannot seek
            file.seek(offset)
        for line in iter(partial(file.readline, MAX_LINE), b""):
            if line[-1:] != b"\n" and len(line) < MAX_LINE:
                break  # a sidecar is still writing it
            offset += len(line)
            number += 1
            request = self._request(line, path, number)
            if request is not None:
                yield request
        self._read_to[file_id] = offset, number

    def _request(self, line: bytes, path: Path, number: int) -> RecordedRequest | None:
        try:
            event = orjson.loads(line)
            if type(event) is not dict:
                raise InvalidEvent("not an event")
            if self._coverage is not None:
                self._coverage.add(event.get("spool"), event.get("seq"))
            kind = event.get("type")
            if kind == REQUEST:
                request = self._parser.parse(event)
                self.summary.requests += 1
                return request
            self._count_other(kind, event)
            if kind == OVERAGE and self._with_overage:
                return self._parser.parse_overage(event)
        except ValueError as error:
            if not line.isspace():
                self._count_broken(path, number, error)
        return None

    def _count_other(self, kind: Any, event: dict[str, Any]) -> None:
        if type(kind) is not str:
            raise InvalidEvent("not an event: it has no type")
        summary = self.summary
        summary.others += 1
        account = event.get("subject")
        if kind == REFUSAL and type(account) is str:
            summary.refused[account] = summary.refused.get(account, 0) + 1
        elif kind == UNCLEAN_STOP and len(summary.stops) < MAX_STOPS:
            stop = read_stop(event)
            summary.stops[stop.source, stop.id] = stop

    def _count_broken(self, path: Path, number: int, error: ValueError) -> None:
        summary = self.summary
        summary.broken += 1
        if len(summary.broken_lines) < MAX_LISTED:
            problem = str(error) if isinstance(error, InvalidEvent) else f"not JSON: {error}"
            summary.broken_lines.append(InvalidLine(str(path), number, problem[:200]))


def event_files(paths: Iterable[Path]) -> list[Path]:
    """Return files as given, and for each directory its event files and those of its workers.

    Raises SpoolError if a path contains neither events nor a spool.
    """
    files: dict[Path, None] = {}
    for path in paths:
        try:
            below = sorted(_below(path)) if path.is_dir() else [path] if path.exists() else []
            empty = not below and not any(any(path.glob(head)) for head in _HEADS)
        except OSError as error:
            raise SpoolError(f"{path}: cannot be read: {error.strerror}") from None
        if empty:
            raise SpoolError(
                f"{path}: contains no events; name the directory of serve --spool, a file of a "
                "sink, or a directory of such files (*.jsonl)"
            )
        files |= dict.fromkeys(below)
    return list(files)


def _below(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if _EVENT_FILE.fullmatch(path.name):
            yield path
        elif _WORKER.fullmatch(path.name) and path.is_dir():
            yield from (one for one in path.iterdir() if _EVENT_FILE.fullmatch(one.name))


def whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, also a compressed one, without newlines and without a torn end."""
    with _opened(path) as (file, _):
        for line in iter(partial(file.readline, MAX_LINE), b""):
            if line[-1:] != b"\n" and len(line) < MAX_LINE:
                break  # a sidecar is still writing it
            yield line.removesuffix(b"\n")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], _FileId]]:
    """Open a file and yield its uncompressed bytes and its identity."""
    with path.open("rb") as raw:
        file_id = _file_id(raw.fileno())
        if path.suffix != ".gz":
            yield raw, file_id
            return
        with gzip.GzipFile(fileobj=raw) as unpacked:
            yield unpacked, file_id  # type: ignore[misc]


def _file_id(descriptor: int) -> _FileId:
    """Return the identity of a file. A new file may reuse an inode, but it begins differently."""
    status = os.fstat(descriptor)
    with suppress(OSError):  # a pipe has no position to read from
        return status.st_dev, status.st_ino, os.pread(descriptor, _FIRST_BYTES, 0)
    return status.st_dev, status.st_ino, b""
