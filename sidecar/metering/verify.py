"""Reads a spool's directory as an auditor does: is every event there, in order, unaltered?"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.errors import SpoolError
from sidecar.metering.losses import DROPPED_TYPE, read_note
from sidecar.metering.segments import (
    MAX_LINE,
    Segment,
    line_hash,
    list_segments,
    raw_lines,
    read_head,
    read_mark,
    segment_path,
)

_SHOWN: Final = 100  # problems that are kept with their place; all are counted


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequence numbers `first` to `last` are missing, before this line."""

    first: int
    last: int
    file: str
    line: int  # from 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: events {self.first} to {self.last} are missing"


@dataclass(frozen=True, slots=True)
class Break:
    """A line that does not fit the line before it."""

    file: str
    line: int  # from 1
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


@dataclass(slots=True)
class Report:
    """What was found. Lists hold the first 100; `missing` and `broken` count all."""

    events: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    segments: int = 0
    spools: list[str] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    missing: int = 0  # events in gaps
    breaks: list[Break] = field(default_factory=list)
    broken: int = 0  # lines
    torn_bytes: int = 0  # after the last newline; normal while a sidecar is writing
    set_aside: int = 0  # files of doubtful bytes, from earlier crashes
    dead_letters: dict[str, int] = field(default_factory=dict)  # per sink
    dropped: int = 0  # events that did not fit on the disk, those noted at its last end included

    @property
    def ok(self) -> bool:
        """True when nothing is missing and nothing was altered."""
        return not self.missing and not self.broken


def verify(directory: Path) -> Report:
    """Read everything once, in bounded memory. Raises SpoolError when there is no spool."""
    try:
        head = read_head(directory)  # first: a living spool only moves on
        segments = list_segments(directory)
        if not segments and head is None:
            raise SpoolError(f"{directory} holds no spool. Name the directory given as --spool.")
        audit = _Audit()
        for segment in segments:
            audit.read(segment)
        report = audit.report
        if head is not None and head.spool == audit.spool and audit.seq is not None:
            audit.check_head(head.next_seq, head.prev)
        note = read_note(directory)
        if note is not None and note.spool == audit.spool:
            report.dropped += note.events
        report.set_aside = sum(1 for _ in directory.glob("*.bad"))
        for path in sorted(directory.glob("*.dead.jsonl")):
            name = path.name.removesuffix(".dead.jsonl")
            report.dead_letters[name] = sum(line.whole for line in raw_lines(path))
    except OSError as error:
        raise SpoolError(f"The spool {directory} cannot be read: {error.strerror}.") from None
    return report


class _Audit:
    """Walks the chain line by line, remembering only the line before."""

    def __init__(self) -> None:
        self.report = Report()
        self.spool: str | None = None
        self.seq: int | None = None
        self._before: bytes | None = None
        self._last_event: bytes | None = None  # the hash of its line
        self._place = ("", 0)

    def read(self, segment: Segment) -> None:
        self.report.segments += 1
        if self.report.torn_bytes:
            self._break("the segment ends inside a line, and another one follows")
            self.report.torn_bytes = 0
        number = 0
        try:
            for number, line in enumerate(raw_lines(segment.path), 1):
                self._place = (segment.path.name, number)
                if line.whole:
                    self._line(line.text, segment.first if number == 1 else None)
                else:
                    self.report.torn_bytes += len(line.text)
        except FileNotFoundError:
            self.report.segments -= 1  # shipped and deleted meanwhile, as all before it
            self.seq = self._before = None

    def _line(self, text: bytes, named: int | None) -> None:
        mark = read_mark(text)
        before, self._before = self._before, line_hash(text)
        if mark is None:
            self._break("not an event of a spool")
            return
        report = self.report
        report.events += 1
        self._last_event = self._before
        if self.spool != mark.spool:
            self._other_spool(mark.spool)
            before = None
        if named is not None and named != mark.seq:
            self._break(f"seq is {mark.seq}, but the file is named after {named}")
        follows = self.seq is not None and mark.seq == self.seq + 1
        self._number(mark.seq)
        if follows and before is not None and mark.prev != before:
            self._break("the line before is not the one that was written before this one")
        if mark.event.get("type") == DROPPED_TYPE:
            data = mark.event.get("data")
            count = data.get("events") if isinstance(data, dict) else None
            report.dropped += count if type(count) is int else 0

    def _other_spool(self, spool: str) -> None:
        if self.spool is not None:
            self._break(f"belongs to another spool, {spool}")
        self.spool, self.seq = spool, None
        if len(self.report.spools) < _SHOWN and spool not in self.report.spools:
            self.report.spools.append(spool)

    def _number(self, seq: int) -> None:
        report = self.report
        if report.first_seq is None:
            report.first_seq = seq
        if self.seq is not None and seq > self.seq + 1:
            self._gap(self.seq + 1, seq - 1)
        elif self.seq is not None and seq <= self.seq:
            self._break(f"seq {seq} comes after {self.seq}")
        self.seq = report.last_seq = seq

    def check_head(self, next_seq: int, prev: bytes) -> None:
        """The head is behind a living spool, never ahead of a whole one."""
        if self.seq is not None and next_seq > self.seq + 1:
            self._gap(self.seq + 1, next_seq - 1)
        elif self.seq is not None and next_seq == self.seq + 1 and prev != self._last_event:
            self._break("the last line is not the one that was written last")

    def _gap(self, first: int, last: int) -> None:
        self.report.missing += last - first + 1
        if len(self.report.gaps) < _SHOWN:
            self.report.gaps.append(Gap(first, last, *self._place))

    def _break(self, problem: str) -> None:
        self.report.broken += 1
        if len(self.report.breaks) < _SHOWN:
            self.report.breaks.append(Break(*self._place, problem))


async def tail(
    directory: Path,
    n: int = 10,
    follow: bool = False,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    poll_s: float = 0.25,
) -> AsyncIterator[bytes]:
    """The last `n` whole lines, oldest first; with `follow`, those that come after them too.

    Follows into new segments and survives the deletion of shipped ones. Raises SpoolError.
    """
    try:
        segments = list_segments(directory)
        lines, offset = _last_lines(segments, n)
        for line in lines:
            yield line
        current = segments[-1].first if segments else 0
        while follow:
            # Listed before reading: what is read then is all that an older segment will ever hold.
            newer = [one for one in list_segments(directory) if one.first > current]
            came = _new_lines(segment_path(directory, current), offset)
            for line in came:
                offset += len(line) + 1
                yield line
            if came:
                continue  # there may be more of this segment
            if newer:
                current, offset = newer[0].first, 0
            else:
                await sleep(poll_s)
    except OSError as error:
        raise SpoolError(f"The spool {directory} cannot be read: {error.strerror}.") from None


def _last_lines(segments: list[Segment], n: int) -> tuple[list[bytes], int]:
    """The last lines, and the offset after the last one in the last segment."""
    found: list[bytes] = []
    offset = 0
    for segment in reversed(segments):
        last: deque[bytes] = deque(maxlen=max(0, n - len(found)))
        try:
            for line in raw_lines(segment.path):
                if line.whole:
                    last.append(line.text)
                    if segment is segments[-1]:
                        offset = line.end
        except FileNotFoundError:  # shipped and deleted meanwhile, as all before it
            break
        found[:0] = last
        if len(found) >= n:
            break
    return found, offset


def _new_lines(path: Path, offset: int) -> list[bytes]:
    """Whole lines from `offset` on, at most 1 MiB of them; none when the file is not there."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(MAX_LINE).split(b"\n")[:-1]
    except FileNotFoundError:  # before the first event, or shipped and deleted
        return []
