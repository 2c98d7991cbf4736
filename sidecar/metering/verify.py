"""Verification of a spool: whether every event is present, in order and unchanged."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.core.events.read import MISSING_EVENTS
from sidecar.errors import SpoolError
from sidecar.metering.buffer import BUFFER_NAME
from sidecar.metering.losses import LOSS_TYPE, read_note
from sidecar.metering.segments import (
    Head,
    InvalidLine,
    Segment,
    line_hash,
    list_segments,
    parse_line,
    raw_lines,
    read_head,
)
from sidecar.metering.unwritten import read_unwritten

MAX_LISTED: Final = 100  # problems of each kind listed with file and line; all are counted


@dataclass(frozen=True, slots=True)
class Gap:
    """The events `first` to `last` are missing before this line.

    `spool`: theirs, if the files have events of several.
    """

    first: int
    last: int
    file: str
    line: int  # from 1; 0: the place is not known
    spool: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        spool = f" of spool {self.spool}" if self.spool else ""
        return f"{place}: events {self.first} to {self.last}{spool} are missing"


@dataclass(slots=True)
class SpoolReport:
    """The result. `gaps` and `breaks` list the first 100; `missing` and `broken` count all.

    `first_seq` and `last_seq` are None if the files of a sink have events of several spools.
    """

    events: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    segments: int = 0
    spools: list[str] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    missing: int = 0  # events in gaps
    breaks: list[InvalidLine] = field(default_factory=list)
    broken: int = 0  # lines
    torn_bytes: int = 0  # after the last newline; normal while a sidecar writes
    set_aside: int = 0  # files with damaged lines, or with torn ones from earlier crashes
    dead_letters: dict[str, int] = field(default_factory=dict)  # by sink
    dropped: int = 0  # events that the disk did not accept, including those in the loss note

    @property
    def ok(self) -> bool:
        """Whether no event is missing and no line is broken."""
        return not self.missing and not self.broken


def verify(directory: Path) -> SpoolReport:
    """Read the whole spool once, in bounded memory.

    Raises SpoolError if the directory is not a spool or cannot be read.
    """
    try:
        head = read_head(directory)  # before the events: a spool in use only moves forward
        segments = list_segments(directory)
        if not segments and head is None:
            raise SpoolError(
                f"--spool: {directory} is not a spool; name the directory of serve --spool"
            )
        unwritten = None if head is None else read_unwritten(directory / BUFFER_NAME, head)
        audit = _ChainAudit()
        for segment in segments:
            audit.read(segment)
        report = audit.report
        if head is not None and audit.spool in (None, head.spool):
            audit.check_start(read_head(directory) or head)  # it may have deleted segments since
            audit.check_end(head)
        if unwritten is not None and unwritten.written_seq and audit.spool == unwritten.head.spool:
            audit.check_written(unwritten.written_seq)
        audit.count_known_gaps()
        note = read_note(directory)
        if note is not None and note.spool == audit.spool:
            report.dropped += note.events
        report.set_aside = sum(1 for _ in directory.glob("*.bad"))
        for path in sorted(directory.glob("*.dead.jsonl")):
            name = path.name.removesuffix(".dead.jsonl")
            report.dead_letters[name] = sum(line.whole for line in raw_lines(path))
    except OSError as error:
        raise SpoolError(f"--spool: {directory} cannot be read: {error.strerror}") from None
    return report


class _ChainAudit:
    """Check of the chain, line by line. It keeps only the previous line."""

    def __init__(self) -> None:
        self.report = SpoolReport()
        self.spool: str | None = None
        self.seq: int | None = None
        self._previous: bytes | None = None  # hash of the line
        self._last_event: bytes | None = None  # hash of its line
        self._place = ("", 0)  # file, line
        self._known_gaps: list[tuple[int, int]] = []  # from the head, and from usage events

    def read(self, segment: Segment) -> None:
        self.report.segments += 1
        if self.report.torn_bytes:
            self._break("the segment ends inside a line, although another segment follows")
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
            self.report.segments -= 1  # shipped and deleted after the listing, like all older ones
            self.seq = self._previous = None

    def _line(self, text: bytes, file_first: int | None) -> None:
        position = parse_line(text)
        previous, self._previous = self._previous, line_hash(text)
        if position is None:
            self._break("not an event of a spool")
            return
        report = self.report
        report.events += 1
        self._last_event = self._previous
        if self.spool != position.spool:
            self._other_spool(position.spool)
            previous = None
        if file_first is not None and file_first != position.seq:
            self._break(f"seq is {position.seq}, but the file name says {file_first}")
        follows = self.seq is not None and position.seq == self.seq + 1
        self._number(position.seq)
        if follows and previous is not None and position.prev != previous:
            self._break("the previous line was changed: its hash does not match")
        if position.event.get("type") == LOSS_TYPE:
            data = position.event.get("data")
            count = data.get("events") if isinstance(data, dict) else None
            report.dropped += count if type(count) is int else 0
        elif position.event.get("type") == MISSING_EVENTS:
            self._known_gap(position.event.get("data"))

    def _known_gap(self, data: object) -> None:
        if isinstance(data, dict) and len(self._known_gaps) < MAX_LISTED:
            first, last = data.get("first"), data.get("last")
            if type(first) is int and type(last) is int:
                self._known_gaps.append((first, last))

    def _other_spool(self, spool: str) -> None:
        if self.spool is not None:
            self._break(f"belongs to another spool: {spool}")
        self.spool, self.seq = spool, None
        if len(self.report.spools) < MAX_LISTED and spool not in self.report.spools:
            self.report.spools.append(spool)

    def _number(self, seq: int) -> None:
        report = self.report
        if report.first_seq is None:
            report.first_seq = seq
        if self.seq is not None and seq > self.seq + 1:
            self._gap(self.seq + 1, seq - 1)
        elif self.seq is not None and seq <= self.seq:
            self._break(f"seq {seq} follows {self.seq}")
        self.seq = report.last_seq = seq

    def check_start(self, head: Head) -> None:
        """Compare the oldest event with the head, which names the first that was not deleted."""
        report = self.report
        first = head.next_seq if report.first_seq is None else report.first_seq
        if head.first and head.first < first:
            self._known_gaps.append((head.first, first - 1))

    def check_end(self, head: Head) -> None:
        """Compare the end with the head. The head is behind a spool in use, but never ahead."""
        if self.seq is None:
            return
        if head.next_seq > self.seq + 1:
            self._gap(self.seq + 1, head.next_seq - 1)
        elif head.next_seq == self.seq + 1 and head.prev != self._last_event:
            self._break("the last line was changed: its hash does not match the head")

    def check_written(self, seq: int) -> None:
        """Compare the end with the last number that was written before the sidecar was killed."""
        last = self.seq or 0
        if self.report.gaps and self.report.gaps[-1].last > last:
            last = self.report.gaps[-1].last  # from the head
        if seq > last:
            self._gap(last + 1, seq)

    def count_known_gaps(self) -> None:
        """Count gaps before the first event, as the head or a usage event names them."""
        first = self.report.first_seq or 0
        for start, last in sorted(set(self._known_gaps)):
            if not first or last < first:
                self._place = ("head.json", 1)
                self._gap(start, last)

    def _gap(self, first: int, last: int) -> None:
        self.report.missing += last - first + 1
        if len(self.report.gaps) < MAX_LISTED:
            self.report.gaps.append(Gap(first, last, *self._place))

    def _break(self, problem: str) -> None:
        self.report.broken += 1
        if len(self.report.breaks) < MAX_LISTED:
            self.report.breaks.append(InvalidLine(*self._place, problem))
