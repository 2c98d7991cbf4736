"""What the spool could not keep: counted, logged, and proven by an event of the spool's own.

Two kinds of loss. A dropped event never had a number. A lost one had, but was not on disk when
the process ended: its number is not used again, so the gap shows. Until the event that counts
them is on disk, a note is: a small file that is there from the start and only ever overwritten
in place, which a disk without any room allows.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from sidecar.files import Files
from sidecar.logs import logger
from sidecar.metering.recovery import Recovered

DROPPED_TYPE: Final = "sidecar.spool.dropped.v1"
LOG_S: Final = 1.0
_NOTE_NAME: Final = "losses.json"
_NOTE_SIZE: Final = 256
_log = logger("spool")


class Note(NamedTuple):
    """`events` of this spool are lost, and their numbers end before `next_seq`."""

    spool: str
    next_seq: int
    events: int


class Losses:
    """`dropped` counts since the start. What is lost is *open* until it is in an event."""

    def __init__(
        self, directory: Path, files: Files, source: str, now: Callable[[], datetime]
    ) -> None:
        self.dropped = 0
        self._directory = directory
        self._files = files
        self._source = source
        self._now = now
        self._note: Note | None = None  # of losses before this start
        self._told_at = 0  # number of the event that counts them
        self._untold = 0  # dropped, and in no event yet
        self._unlogged = 0
        self._timer: asyncio.TimerHandle | None = None

    def drop(self, why: str) -> None:
        """One event is not kept; told in the log within a second, with the others."""
        self.dropped += 1
        self._untold += 1
        self._unlogged += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOG_S, self.tell, why)

    def tell(self, why: str) -> None:
        """Log what was not logged yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unlogged:
            _log.error("events_dropped", events=self._unlogged, total=self.dropped, error=why,
                       spool=str(self._directory))  # fmt: skip
            self._unlogged = 0

    # proven by events

    @property
    def open(self) -> bool:
        """Whether something is lost that no event counts."""
        return self._untold > 0 or (self._note is not None and not self._told_at)

    def event(self, spool: str, seq: int) -> dict[str, Any]:
        """The event, with this number, that counts what is open: of that, what has one identity."""
        if self._note is not None and not self._told_at:
            self._told_at = seq
            # The same identity at each start, until the note is gone.
            return self._event(f"{spool}-{self._note.next_seq}-lost", self._note.events)
        count, self._untold = self._untold, 0
        return self._event(f"{spool}-{seq}-dropped", count)

    def _event(self, identity: str, events: int) -> dict[str, Any]:
        time = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "specversion": "1.0", "id": identity, "source": self._source, "type": DROPPED_TYPE,
            "time": time, "datacontenttype": "application/json", "data": {"events": events},
        }  # fmt: skip

    def proves(self, committed_seq: int) -> bool:
        """Whether the note has just become needless: its event is on disk."""
        if self._note is None or not self._told_at or committed_seq < self._told_at:
            return False
        self._note = None
        return True

    def unproven(self, lines: Iterable[bytes]) -> int:
        """How many events are lost with these lines and with all that is open."""
        lost = self._untold
        if self._note is not None and not self._told_at:
            lost += self._note.events
        return lost + events_in(lines)

    # noted on disk; these block

    def after(self, recovered: Recovered) -> Recovered:
        """Go on behind the numbers of what was lost at the last end, in a segment of its own:
        within one, a gap would be damage. Raises OSError."""
        head, note = recovered.head, read_note(self._directory)
        if note is None or note.spool != head.spool:
            self._write(Note(head.spool, 0, 0))  # so that there is one to overwrite
            return recovered
        self._note = note
        if note.next_seq <= head.next_seq:
            return recovered
        return Recovered(head._replace(next_seq=note.next_seq), recovered.segments, False)

    def leave_note(self, note: Note) -> None:
        """For the next start. What cannot be noted down is at least in the log."""
        try:
            self._write(note)
        except OSError as error:
            _log.error("losses_not_recorded", events=note.events, error=error.strerror)

    def _write(self, note: Note) -> None:
        text = orjson.dumps(note._asdict()).ljust(_NOTE_SIZE - 1) + b"\n"
        path = self._directory / _NOTE_NAME
        fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            self._files.write_all(fd, text)
            self._files.sync(fd)
        finally:
            os.close(fd)


def read_note(directory: Path) -> Note | None:
    """What was lost and is in no event yet; None when nothing is. Raises OSError."""
    try:
        value = orjson.loads((directory / _NOTE_NAME).read_bytes())
        note = Note(value["spool"], value["next_seq"], value["events"])
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    whole = type(note.next_seq) is int and type(note.events) is int and note.events > 0
    return note if whole and isinstance(note.spool, str) else None


def events_in(lines: Iterable[bytes]) -> int:
    """How many events these lines stand for: one of ours for all that it counts."""
    count = 0
    for line in lines:
        event = orjson.loads(line)
        count += event["data"]["events"] if event.get("type") == DROPPED_TYPE else 1
    return count
