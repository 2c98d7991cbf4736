"""Events that were recorded, wherever they are: spools, what sinks wrote, rotated or compressed.

Files may grow, be renamed, rotated or deleted while they are read. A file is known by its inode
and how it begins, and read from where the last reading of it ended; a last line without its newline
is left for the next one.
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

from sidecar.core.events.read import REFUSAL, REQUEST, EventParser, InvalidEvent, RecordedRequest
from sidecar.errors import SpoolError
from sidecar.metering.gaps import SequenceCoverage
from sidecar.metering.segments import HEAD_NAME, MAX_LINE, read_head

SHOWN: Final = 100  # broken lines that are kept with their place; all are counted
_BEGINNING: Final = 160  # bytes: a line's place in the chain is within them
_EVENTS: Final = re.compile(r".+\.jsonl(\.[0-9]+)?(\.gz)?")
_WORKER: Final = re.compile(r"worker-[0-9]+")
_Name = tuple[int, int, bytes]
_HEADS: Final = (HEAD_NAME, f"worker-*/{HEAD_NAME}")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that tells no event."""

    file: str
    line: int  # from 1; of what was read now
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


@dataclass(slots=True)
class ReadSummary:
    """What reading has come across. `refused` are refusals that were recorded, by account."""

    files: int = 0
    calls: int = 0  # with copies of one event
    others: int = 0  # events of other types
    refused: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    broken_lines: list[BadLine] = field(default_factory=list)
    gone: int = 0  # files that were deleted before they could be read


class EventReader:
    """All events below some paths. `coverage`, if given, learns which numbers were seen."""

    def __init__(self, paths: Sequence[Path], *, coverage: SequenceCoverage | None = None) -> None:
        self.found = ReadSummary()
        self._paths = paths
        self._coverage = coverage
        self._parser = EventParser()
        self._read: dict[_Name, tuple[int, int]] = {}  # offset, lines

    def new_requests(self) -> Iterator[RecordedRequest]:
        """What was not read before, in no particular order; an event may come more than once.
        Raises SpoolError."""
        files = event_files(self._paths)
        self._look_at_heads(files)
        for path in files:
            try:
                with _opened(path) as (file, name):
                    yield from self._calls(path, file, name)
            except FileNotFoundError:
                self.found.gone += 1
            except (OSError, EOFError, zlib.error) as error:
                why = getattr(error, "strerror", None) or str(error)
                raise SpoolError(f"The events in {path} cannot be read: {why}.") from None

    def _look_at_heads(self, files: Sequence[Path]) -> None:
        """Before the events: a living spool only moves on."""
        if self._coverage is None:
            return
        for directory in {*self._paths, *(path.parent for path in files)}:
            try:
                head = read_head(directory) if directory.is_dir() else None
            except OSError as error:
                why = f"{directory / HEAD_NAME} cannot be read: {error.strerror}."
                raise SpoolError(why) from None
            if head is not None:
                self._coverage.ends(head.spool, head.next_seq)

    def _calls(self, path: Path, file: IO[bytes], name: _Name) -> Iterator[RecordedRequest]:
        offset, number = self._read.get(name, (0, 0))
        found = self.found
        found.files += offset == 0
        if offset:  # a pipe has no places to go to
            file.seek(offset)
        for line in iter(partial(file.readline, MAX_LINE), b""):
            if line[-1:] != b"\n" and len(line) < MAX_LINE:
                break  # it is being written
            offset += len(line)
            number += 1
            call = self._call(line, path, number)
            if call is not None:
                found.calls += 1
                yield call
        self._read[name] = offset, number

    def _call(self, line: bytes, path: Path, number: int) -> RecordedRequest | None:
        try:
            event = orjson.loads(line)
            if type(event) is not dict:
                raise InvalidEvent("not an event")
            if self._coverage is not None:
                self._coverage.saw(event.get("spool"), event.get("seq"))
            kind = event.get("type")
            if kind == REQUEST:
                return self._parser.parse(event)
            self._other(kind, event)
        except ValueError as error:
            if not line.isspace():
                self._bad(path, number, error)
        return None

    def _other(self, kind: Any, event: dict[str, Any]) -> None:
        if type(kind) is not str:
            raise InvalidEvent("not an event: it has no type")
        self.found.others += 1
        account = event.get("subject")
        if kind == REFUSAL and type(account) is str:
            self.found.refused[account] = self.found.refused.get(account, 0) + 1

    def _bad(self, path: Path, number: int, error: ValueError) -> None:
        found = self.found
        found.broken += 1
        if len(found.broken_lines) < SHOWN:
            problem = str(error) if isinstance(error, InvalidEvent) else f"no JSON: {error}"
            found.broken_lines.append(BadLine(str(path), number, problem[:200]))


def event_files(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, and of directories what holds events there and in the spools of workers.
    Raises SpoolError for a path with nothing of the kind."""
    files: dict[Path, None] = {}
    for path in paths:
        try:
            below = sorted(_below(path)) if path.is_dir() else [path] if path.exists() else []
            empty = not below and not any(any(path.glob(head)) for head in _HEADS)
        except OSError as error:
            raise SpoolError(f"{path} cannot be read: {error.strerror}.") from None
        if empty:
            raise SpoolError(
                f"{path} holds no events. Name a spool, as serve has it with --spool DIR, a file "
                "that a sink wrote, or a directory of such files (*.jsonl)."
            )
        files |= dict.fromkeys(below)
    return list(files)


def _below(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if _EVENTS.fullmatch(path.name):
            yield path
        elif _WORKER.fullmatch(path.name) and path.is_dir():
            yield from (one for one in path.iterdir() if _EVENTS.fullmatch(one.name))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], _Name]]:
    """The file's bytes, unpacked, and what it is known by."""
    with path.open("rb") as raw:
        name = _name_of(raw.fileno())
        if path.suffix != ".gz":
            yield raw, name
            return
        with gzip.GzipFile(fileobj=raw) as unpacked:
            yield unpacked, name  # type: ignore[misc]


def _name_of(descriptor: int) -> _Name:
    """A new file may get the inode of one that was deleted; it does not begin in the same way."""
    status = os.fstat(descriptor)
    with suppress(OSError):  # a pipe cannot be looked into
        return status.st_dev, status.st_ino, os.pread(descriptor, _BEGINNING, 0)
    return status.st_dev, status.st_ino, b""
