"""Recovery of a spool after a crash: find the end of the chain, set unproven bytes aside.

A crash can leave a torn tail: bytes after the last line that the chain proves. They move to a
`.bad` file. Damage in the middle, before sound lines, is not a torn tail, because cutting there
would lose good events. Such a segment stays as it is, the next event opens a new one, and
`sidecar events verify` reports the break.
"""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from sidecar.core.events.read import MISSING_EVENTS
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.metering.buffer import BUFFER_NAME
from sidecar.metering.segments import (
    NO_LINE,
    Head,
    Segment,
    line_hash,
    list_segments,
    parse_line,
    raw_lines,
    read_head,
    write_head,
)
from sidecar.metering.unwritten import Unwritten, read_unwritten

_MAX_RECORDED: Final = 10_000  # gaps
_log = logger("spool")


class MissingEvents(NamedTuple):
    """The events `first` to `last` should be in the spool, and are not."""

    first: int
    last: int


class RecoveryResult(NamedTuple):
    """The end of the chain in the segments, and what follows it in the buffer.

    `appendable`: the last segment is sound and may be continued. `missing`: what should be there,
    and that no usage event names yet.
    """

    head: Head
    segments: list[Segment]
    appendable: bool
    unwritten: Unwritten
    missing: list[MissingEvents]


@dataclass(slots=True)
class _Scan:
    """The result of reading one segment."""

    end: int = 0  # of the last line that the chain proves
    head: Head | None = None  # after that line
    sound: int = 0  # lines
    unproven: int = 0  # lines after `end`
    breaks: int = 0  # lines before `end` that do not fit
    recorded: list[MissingEvents] = field(default_factory=list)  # as its usage events name them


def recover(directory: Path, files: Files) -> RecoveryResult:
    """Repair the directory so that the spool can append to it. Raises OSError."""
    for temporary in directory.glob("*.tmp"):
        files.remove(temporary)
    head = read_head(directory)
    segments = list_segments(directory)
    appendable = True
    last: Head | None = None
    recorded: list[MissingEvents] = []
    while segments and last is None:
        scan = _scan(segments[-1])
        if scan.end < segments[-1].size:
            _set_aside(segments[-1], scan, files)
        if scan.head is None:
            files.remove(segments.pop().path)
            continue
        last, appendable, recorded = scan.head, scan.breaks == 0, scan.recorded
        if scan.breaks:
            _log.error(
                "spool_damaged",
                file=str(segments[-1].path),
                invalid_lines=scan.breaks,
                remedy="run sidecar events verify; sinks still get the sound lines",
            )
    at_the_start = _missing_at_the_start(head, segments, last)
    missing = at_the_start[:]
    head = _later_head(head, last)
    if last is not None and head.next_seq > last.next_seq:
        appendable = False  # a gap within a segment would look like damage
        missing.append(MissingEvents(last.next_seq, head.next_seq - 1))
    unwritten = read_unwritten(directory / BUFFER_NAME, head)
    if unwritten.missing is not None:
        appendable = False
        missing.append(MissingEvents(*unwritten.missing))
    recorded += _recorded_in(unwritten.lines)
    missing = [gap for gap in missing if not _is_recorded(gap, recorded)]
    for gap in at_the_start:
        if gap not in missing:
            head = head._replace(first=gap.last + 1)
    # It names the old first event until a usage event says which ones are missing.
    write_head(files, directory, head)
    files.sync_directory(directory)
    oldest = segments[0].first if segments else unwritten.first
    return RecoveryResult(head._replace(first=oldest), segments, appendable, unwritten, missing)


def _missing_at_the_start(
    head: Head | None, segments: list[Segment], last: Head | None
) -> list[MissingEvents]:
    """Return the events before the oldest segment that no sink is known to have."""
    if head is None or not head.first or (last is not None and last.spool != head.spool):
        return []
    oldest = segments[0].first if segments else head.next_seq
    if oldest <= head.first:
        return []
    return [MissingEvents(head.first, oldest - 1)]


def _recorded_in(lines: Sequence[bytes]) -> list[MissingEvents]:
    """Return the gaps that usage events among these lines name."""
    positions = (parse_line(line) for line in lines if MISSING_EVENTS.encode() in line)
    gaps = (_gap_of(position.event) for position in positions if position is not None)
    return [gap for gap in gaps if gap is not None][-_MAX_RECORDED:]


def _gap_of(event: dict[str, Any]) -> MissingEvents | None:
    """Return the gap that a usage event names; None for other events."""
    data = event.get("data")
    if event.get("type") != MISSING_EVENTS or not isinstance(data, dict):
        return None
    first, last = data.get("first"), data.get("last")
    return MissingEvents(first, last) if type(first) is int and type(last) is int else None


def _is_recorded(gap: MissingEvents, recorded: Sequence[MissingEvents]) -> bool:
    """Whether a usage event names the gap.

    It may name fewer events at the start: the sinks had the others.
    """
    return any(one.first <= gap.last <= one.last for one in recorded)


def _later_head(head: Head | None, last: Head | None) -> Head:
    """Return the head with the higher number, so that no sequence number is used twice."""
    if last is None:
        return head or Head(str(uuid.uuid4()), 1, NO_LINE, 1)
    if head is None or head.spool != last.spool:
        return last
    if head.next_seq < last.next_seq:
        return last._replace(first=head.first)
    if head.next_seq == last.next_seq:
        if head.prev != last.prev:
            _log.error(
                "spool_last_line_altered",
                last_seq=head.next_seq - 1,
                remedy="restore it from a backup; sidecar events verify reports it",
            )
        return head
    return head


def _scan(segment: Segment) -> _Scan:
    scan = _Scan()
    before: bytes | None = None
    seq, spool, unproven = segment.first - 1, None, 0
    for line in raw_lines(segment.path):
        position = parse_line(line.text) if line.whole else None
        linked = (
            position is not None
            and position.seq == seq + 1
            and (before is None or (position.prev == before and position.spool == spool))
        )
        before = line_hash(line.text)
        if position is None:
            unproven += 1
            continue
        seq, spool = position.seq, position.spool
        gap = _gap_of(position.event)
        if gap is not None and len(scan.recorded) < _MAX_RECORDED:
            scan.recorded.append(gap)
        if not linked:
            unproven += 1
            continue
        # The link also proves the line before, whatever precedes that one.
        scan.breaks += unproven
        scan.sound, unproven = scan.sound + 1, 0
        scan.end, scan.head = line.end, Head(position.spool, position.seq + 1, before)
    scan.unproven = unproven
    return scan


def _set_aside(segment: Segment, scan: _Scan, files: Files) -> None:
    """Move the bytes after the last sound line to a `.bad` file."""
    with segment.path.open("rb") as file:
        file.seek(scan.end)
        unproven = file.read()
    number = 1
    while (aside := segment.path.with_name(f"{segment.path.name}.torn-{number}.bad")).exists():
        number += 1
    files.replace(aside, unproven)
    files.sync_directory(segment.path.parent)
    fd = files.open(segment.path, os.O_WRONLY | os.O_CLOEXEC, 0)
    try:
        files.truncate(fd, scan.end)
        files.sync(fd)
    finally:
        os.close(fd)
    segment.size = scan.end
    _log.warning(
        "spool_tail_torn",
        file=str(segment.path),
        set_aside=str(aside),
        removed_bytes=len(unproven),
        removed_lines=scan.unproven,
        kept_lines=scan.sound,
    )
