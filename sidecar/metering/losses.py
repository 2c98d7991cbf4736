"""Events that the spool lost: counted, logged, and proven by a loss event in the spool.

There are two kinds of loss. A dropped event never had a number. A lost event had a number but was
not on disk when the process ended; its number is not reused, so the gap is visible. Until the
loss event is on disk, a note has the count: a small file that exists from the start and is only
overwritten in place, which a full disk allows.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from sidecar.core.events.read import MISSING_EVENTS, UNCLEAN_STOP
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.metering.recovery import MissingEvents, RecoveryResult

LOSS_TYPE: Final = "sidecar.spool.dropped.v1"
LOG_INTERVAL_S: Final = 1.0
_NOTE_NAME: Final = "losses.json"
_MAX_REPORTED: Final = 10_000  # ranges of missing events
_NOTE_BYTES: Final = 256
_log = logger("spool")


class LossNote(NamedTuple):
    """A number of lost `events` of a spool; their numbers end before `next_seq`."""

    spool: str
    next_seq: int
    events: int


class Losses:
    """Losses of one spool. `dropped` and `missing` count since the start.

    A loss is *unproven* until a loss event counts it.
    """

    def __init__(
        self, directory: Path, files: Files, source: str, now: Callable[[], datetime]
    ) -> None:
        self.dropped = 0
        self.missing = 0  # events that should be in the spool
        self.damaged = 0  # missing events that were found, but changed
        self._reported: set[MissingEvents] = set()
        self.facts: list[dict[str, Any]] = []  # events about the spool, to be appended
        self._directory = directory
        self._files = files
        self._source = source
        self._now = now
        self._note: LossNote | None = None  # losses before this start
        self._note_seq = 0  # number of the loss event that counts them
        self._unproven = 0  # dropped events that no loss event counts yet
        self._unlogged = 0
        self._timer: asyncio.TimerHandle | None = None

    def drop(self, error: str) -> None:
        """Count a dropped event. Logs all drops of one second together."""
        self.dropped += 1
        self._unproven += 1
        self._unlogged += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                LOG_INTERVAL_S, self.log_dropped, error
            )

    def log_dropped(self, error: str) -> None:
        """Log the dropped events that are not logged yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unlogged:
            _log.error(
                "events_dropped",
                events=self._unlogged,
                total=self.dropped,
                error=error,
                spool=str(self._directory),
            )
            self._unlogged = 0

    def report_unwritten(self, lines: Iterable[bytes], *, lost: bool, error: str) -> None:
        """Log the lines that the spool could not write before it closed.

        `lost`: the buffer is missing, too. Otherwise the next start writes them.
        """
        if lost:
            _log.error("events_lost", events=events_in(lines), error=error)
        else:
            _log.warning("events_left_in_buffer", events=events_in(lines), error=error)

    # Loss events.

    @property
    def unproven(self) -> bool:
        """Whether there is a loss that no loss event counts."""
        return self._unproven > 0 or (self._note is not None and not self._note_seq)

    def event(self, spool: str, seq: int) -> dict[str, Any]:
        """Return the next loss event, with this number. It counts unproven losses of one kind."""
        if self._note is not None and not self._note_seq:
            self._note_seq = seq
            # The same id at each start, until the note is cleared: repeated events are copies.
            return self._event(f"{spool}-{self._note.next_seq}-lost", self._note.events)
        count, self._unproven = self._unproven, 0
        return self._event(f"{spool}-{seq}-dropped", count)

    def _event(self, identity: str, events: int) -> dict[str, Any]:
        return self._fact(identity, LOSS_TYPE, {"events": events})

    def add_start_events(self, recovered: RecoveryResult) -> None:
        """Add the events that say what the recovery found: missing events, an unclean stop."""
        unwritten = recovered.unwritten
        spool, at = recovered.head.spool, unwritten.head.next_seq
        for gap in recovered.missing:
            self.report(spool, gap)
        if unwritten.unclean:
            missing = sum(gap.last - gap.first + 1 for gap in recovered.missing)
            stopped = unwritten.machine_stopped
            data = {
                "cause": "machine" if stopped else "process",
                "recovered": len(unwritten.lines),
                "missing": missing,
                "may_be_missing": missing + (unwritten.batch if stopped else 0),
            }
            if not stopped:  # the number may be old after a power failure
                data["in_flight"] = unwritten.in_flight
            _log.warning(
                "unclean_stop_found",
                spool=str(self._directory),
                cause=data["cause"],
                recovered=data["recovered"],
                missing=data["missing"],
                may_be_missing=data["may_be_missing"],
                in_flight=data.get("in_flight"),
            )
            self.facts.append(self._fact(f"{spool}-{at}-unclean-stop", UNCLEAN_STOP, data))

    def report(self, spool: str, gap: MissingEvents, file: str = "", set_aside: str = "") -> None:
        """Log missing events and add the event that names them; with `file`, damaged ones.

        Once for each event. The id of the event about them derives from the numbers.
        """
        if any(one.first <= gap.first and gap.last <= one.last for one in self._reported):
            return
        if len(self._reported) >= _MAX_REPORTED:
            self._reported.clear()
        self._reported.add(gap)
        count = gap.last - gap.first + 1
        self.missing += count
        if file:
            self.damaged += count
            remedy = "restore these events from a backup; the sinks did not get them"
            _log.error(
                "events_damaged",
                first_seq=gap.first,
                last_seq=gap.last,
                spool=str(self._directory),
                file=file,
                set_aside=set_aside,
                remedy=remedy,
            )
        else:
            remedy = "restore these events from a backup: they were removed"
            _log.error(
                "events_missing",
                first_seq=gap.first,
                last_seq=gap.last,
                spool=str(self._directory),
                remedy=remedy,
            )
        cause = "damaged" if file else "absent"
        data = {"first": gap.first, "last": gap.last, "cause": cause}
        identity = f"{spool}-{gap.first}-{gap.last}-{cause}"
        self.facts.append(self._fact(identity, MISSING_EVENTS, data))

    def _fact(self, identity: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        time = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "specversion": "1.0",
            "id": identity,
            "source": self._source,
            "type": kind,
            "time": time,
            "clock": "node",
            "datacontenttype": "application/json",
            "data": data,
        }

    def clears_note(self, committed_seq: int) -> bool:
        """Whether the loss event of the note is on disk now. Forgets the note; True only once."""
        if self._note is None or not self._note_seq or committed_seq < self._note_seq:
            return False
        self._note = None
        return True

    def total_with(self, lines: Iterable[bytes]) -> int:
        """Return the number of unproven losses if these lines are lost too."""
        lost = self._unproven
        if self._note is not None and not self._note_seq:
            lost += self._note.events
        return lost + events_in(lines)

    # The note on disk. These methods block.

    def next_seq_after(self, recovered: RecoveryResult) -> int:
        """Return the next number: after those of events that were lost with the last process.

        Raises OSError.
        """
        head, note = recovered.unwritten.head, read_note(self._directory)
        if note is None or note.spool != head.spool:
            self._write(LossNote(head.spool, 0, 0))  # a file to overwrite later
            return head.next_seq
        self._note = note
        return max(note.next_seq, head.next_seq)

    def write_note(self, note: LossNote) -> None:
        """Write the note for the next start. A failed write is logged."""
        try:
            self._write(note)
        except OSError as error:
            _log.error("losses_not_recorded", events=note.events, error=error.strerror)

    def _write(self, note: LossNote) -> None:
        text = orjson.dumps(note._asdict()).ljust(_NOTE_BYTES - 1) + b"\n"
        path = self._directory / _NOTE_NAME
        fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            self._files.write_all(fd, text)
            self._files.sync(fd)
        finally:
            os.close(fd)


def read_note(directory: Path) -> LossNote | None:
    """Return the losses that no loss event counts yet; None: none. Raises OSError."""
    try:
        value = orjson.loads((directory / _NOTE_NAME).read_bytes())
        note = LossNote(value["spool"], value["next_seq"], value["events"])
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    valid = type(note.next_seq) is int and type(note.events) is int and note.events > 0
    return note if valid and isinstance(note.spool, str) else None


def events_in(lines: Iterable[bytes]) -> int:
    """Return the number of events in these lines. A loss event counts for those it counts."""
    count = 0
    for line in lines:
        event = orjson.loads(line)
        count += event["data"]["events"] if event.get("type") == LOSS_TYPE else 1
    return count
