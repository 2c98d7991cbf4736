"""Journals that processes left when they died: found, locked, read in bounded memory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.core.model import MICRO
from sidecar.stores.local.journal import SUFFIX, UNBORN
from sidecar.stores.local.journal_format import Entry, JournalHeader, Named, Owner, read_line

CHUNK: Final = 5_000  # entries
MOST_LINE: Final = 1 << 20  # bytes
HOUR_US: Final = 3_600 * MICRO


def left_behind(directory: Path) -> list[tuple[Path, int]]:
    """Journals whose process is dead, oldest first, each with the descriptor that locks it.

    What never got its name is deleted: nothing had been written to it.
    """
    found = []
    with suppress(OSError):
        for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime):
            if path.suffix in (SUFFIX, UNBORN) and (fd := _locked(path)) is not None:
                if path.suffix == SUFFIX:
                    found.append((path, fd))
                else:
                    path.unlink(missing_ok=True)
                    os.close(fd)
    return found


def _locked(path: Path) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.samefile(f"/proc/self/fd/{fd}"):  # not another one's that is gone by now
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


@dataclass(slots=True)
class JournalReader:
    """One journal from its start. `bad`: lines that cannot be read; `open`: calls that were under
    way when its process died, once all chunks are read."""

    path: Path
    header: JournalHeader | None = None
    bad: int = 0
    owners: dict[int, Owner] = field(default_factory=dict)
    open: dict[str | None, Entry] = field(default_factory=dict)

    def chunks(self) -> Iterator[list[Entry]]:
        """Calls that were over, in order. Raises OSError."""
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
            return None  # what a crash tears off was not promised to anybody
        try:
            said = read_line(line, self.owners)
        except ValueError:
            self.bad += 1
            return None
        if isinstance(said, JournalHeader):
            self.header = said
        elif isinstance(said, Named):
            self.owners[said.number] = said.owner
        elif said.is_open:
            self.open[said.hold_id] = said
        else:
            self.open.pop(said.hold_id, None)
            return said
        return None


@dataclass(slots=True)
class Past:
    """A journal at a glance. `used` by owner and hour: the last instant, and units by quota."""

    sidecars: int = 1
    calls: int = 0
    used: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    owners: dict[int, Owner] = field(default_factory=dict)


def summary(path: Path) -> Past:
    """All of a journal, added up. Raises OSError."""
    reader, past = JournalReader(path), Past()
    past.owners = reader.owners
    for chunk in reader.chunks():
        for entry in chunk:
            _add(past, entry)
    for entry in reader.open.values():
        _add(past, entry)
    if reader.header is not None:
        past.sidecars = max(1, reader.header.sidecars)
    return past


def _add(past: Past, entry: Entry) -> None:
    past.calls += 1
    name = entry.owner, entry.at_us // HOUR_US
    at_us, before = past.used.get(name, (0, (0,) * len(entry.costs)))
    units = tuple(map(sum, zip(before, entry.costs, strict=True)))
    past.used[name] = max(at_us, entry.at_us), units
