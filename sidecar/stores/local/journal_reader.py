"""Reads journals in bounded memory, and locks those that dead processes have abandoned."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.core.kinds import MICRO
from sidecar.stores.local.journal import NEW_SUFFIX, SUFFIX
from sidecar.stores.local.journal_format import (
    Entry,
    JournalHeader,
    NumberedOwner,
    Owner,
    read_line,
)

CHUNK: Final = 5_000  # entries
MOST_LINE: Final = 1 << 20  # bytes
HOUR_US: Final = 3_600 * MICRO


def lock_abandoned(directory: Path) -> list[tuple[Path, int]]:
    """Lock the journals of dead processes; their paths and descriptors, oldest first.

    This deletes files that were not renamed to their final name: they have no entries.
    """
    journals = []
    with suppress(OSError):
        for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime):
            if path.suffix in (SUFFIX, NEW_SUFFIX) and (fd := _lock(path)) is not None:
                if path.suffix == SUFFIX:
                    journals.append((path, fd))
                else:
                    path.unlink(missing_ok=True)
                    os.close(fd)
    return journals


def _lock(path: Path) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.samefile(f"/proc/self/fd/{fd}"):  # not deleted and created again since the open
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


@dataclass(slots=True)
class JournalReader:
    """Reads one journal from its start.

    `open` has the requests that were in flight when the process died, once all chunks are read.
    """

    path: Path
    header: JournalHeader | None = None
    invalid_lines: int = 0
    owners: dict[int, Owner] = field(default_factory=dict)
    open: dict[str | None, Entry] = field(default_factory=dict)

    def chunks(self) -> Iterator[list[Entry]]:
        """Entries of finished requests, in order. Raises OSError."""
        chunk: list[Entry] = []
        with self.path.open("rb") as file:
            while line := file.readline(MOST_LINE):
                entry = self._read(line)
                if entry is not None:
                    chunk.append(entry)
                if len(chunk) == CHUNK:
                    yield chunk
                    chunk = []
        yield chunk

    def _read(self, line: bytes) -> Entry | None:
        if not line.endswith(b"\n"):
            return None  # torn by a crash, so it was never committed
        try:
            item = read_line(line, self.owners)
        except ValueError:
            self.invalid_lines += 1
            return None
        if isinstance(item, JournalHeader):
            self.header = item
        elif isinstance(item, NumberedOwner):
            self.owners[item.number] = item.owner
        elif item.is_open:
            self.open[item.hold_id] = item
        else:
            self.open.pop(item.hold_id, None)
            return item
        return None


@dataclass(slots=True)
class JournalSummary:
    """A journal's sums. `used` by owner and hour: the last instant (µs), and units by quota."""

    sidecars: int = 1
    requests: int = 0
    used: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    owners: dict[int, Owner] = field(default_factory=dict)


def summary(path: Path) -> JournalSummary:
    """The sums of a journal, with its open entries. Raises OSError."""
    reader, sums = JournalReader(path), JournalSummary()
    sums.owners = reader.owners
    for chunk in reader.chunks():
        for entry in chunk:
            _add(sums, entry)
    for entry in reader.open.values():
        _add(sums, entry)
    if reader.header is not None:
        sums.sidecars = max(1, reader.header.sidecars)
    return sums


def _add(sums: JournalSummary, entry: Entry) -> None:
    sums.requests += 1
    name = entry.owner, entry.at_us // HOUR_US
    at_us, before = sums.used.get(name, (0, (0,) * len(entry.costs)))
    units = tuple(map(sum, zip(before, entry.costs, strict=True)))
    sums.used[name] = max(at_us, entry.at_us), units
