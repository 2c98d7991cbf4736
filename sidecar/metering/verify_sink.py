"""Verification of the files of a sink: whether the lines of each spool follow each other.

A sink gets lines at least once, so copies are normal. Files may be rotated and compressed, and
hold lines of several spools. The oldest files may be deleted, so the first number can be any.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sidecar.errors import SpoolError
from sidecar.metering.event_reader import event_files, whole_lines
from sidecar.metering.gaps import MAX_SPOOLS, SequenceCoverage
from sidecar.metering.losses import LOSS_TYPE
from sidecar.metering.segments import InvalidLine, line_hash, parse_line
from sidecar.metering.verify import MAX_LISTED, Gap, SpoolReport

_MAX_ENDS: Final = 100_000  # places where a run of lines begins or ends
_MAX_COPIES: Final = 200_000  # lines that occur more than once, and are compared


class _SinkAudit:
    """The ends of all runs of lines, by spool and number; within a run, only the last line."""

    def __init__(self, root: Path) -> None:
        self._root = root  # problems name files relative to it
        self.report = SpoolReport()
        self.coverage = SequenceCoverage()
        self._ranges: dict[str, tuple[int, int]] = {}  # spool → its lowest and highest number
        self._hashes: dict[tuple[str, int], bytes] = {}  # of the last line of a run
        self._starts: dict[tuple[str, int], tuple[bytes, str, int]] = {}  # prev, file, line
        self._runs: list[tuple[str, int, int]] = []  # spool, first and last number

    def read(self, path: Path, lines: Iterable[bytes]) -> None:
        at: tuple[str, int] | None = None
        digest, first = b"", 0
        for number, text in enumerate(lines, 1):
            position = parse_line(text)
            if position is None:
                self._break(path, number, "not an event of a spool")
                continue
            self._count(position.spool, position.seq, position.event.get("type"), position.event)
            here = position.spool, position.seq
            if at == (here[0], here[1] - 1):
                if position.prev != digest:
                    problem = "the previous line was changed: its hash does not match"
                    self._break(path, number, problem)
            else:
                self._end(at, digest, first)
                first = position.seq
                if len(self._starts) < _MAX_ENDS:
                    self._starts[here] = position.prev, str(path), number
            at, digest = here, line_hash(text)
        self._end(at, digest, first)

    def _end(self, at: tuple[str, int] | None, digest: bytes, first: int) -> None:
        if at is None:
            return
        if len(self._hashes) < _MAX_ENDS:
            self._hashes[at] = digest
        if len(self._runs) < _MAX_ENDS:
            self._runs.append((at[0], first, at[1]))

    def copied(self) -> set[tuple[str, int]]:
        """The spools and numbers of lines that occur more than once."""
        copies: set[tuple[str, int]] = set()
        read = ("", 0)  # spool and highest number of the runs before
        for spool, first, last in sorted(self._runs):
            if spool == read[0]:
                again = range(first, min(last, read[1]) + 1)
                copies.update((spool, seq) for seq in again[: _MAX_COPIES - len(copies)])
            read = max(read, (spool, last))
        return copies

    def compare(
        self, path: Path, lines: Iterable[bytes], copies: dict[tuple[str, int], bytes]
    ) -> None:
        """Check that copies are equal: a sink gets a line again as it was. `copies`: their hashes.

        The hash of a copy that was not read yet is b"".
        """
        for number, text in enumerate(lines, 1):
            position = parse_line(text)
            known = None if position is None else copies.get((position.spool, position.seq))
            if position is None or known is None:
                continue
            digest = line_hash(text)
            if known and known != digest:
                self._break(path, number, f"event {position.seq} is there twice, and differs")
            copies[position.spool, position.seq] = known or digest

    def _count(self, spool: str, seq: int, kind: object, event: dict[str, object]) -> None:
        report = self.report
        report.events += 1
        self.coverage.add(spool, seq)
        if spool in self._ranges or len(self._ranges) < MAX_SPOOLS:
            first, last = self._ranges.get(spool, (seq, seq))
            self._ranges[spool] = min(seq, first), max(seq, last)
        if kind == LOSS_TYPE and isinstance(data := event.get("data"), dict):
            count = data.get("events")
            report.dropped += count if type(count) is int else 0

    def finish(self) -> SpoolReport:
        report = self.report
        for (spool, seq), (prev, file, number) in self._starts.items():
            digest = self._hashes.get((spool, seq - 1))
            if digest is not None and digest != prev:
                self._break(Path(file), number, f"event {seq - 1} was changed in another file")
        for gap in self.coverage.missing():
            first = max(gap.first, self._ranges.get(gap.spool, (1, 1))[0])
            if first <= gap.last:
                report.missing += gap.last - first + 1
                if len(report.gaps) < MAX_LISTED:
                    report.gaps.append(self._gap(gap.spool, first, gap.last))
        report.spools = sorted(self._ranges)
        if len(self._ranges) == 1:
            [(report.first_seq, report.last_seq)] = self._ranges.values()
        return report

    def _gap(self, spool: str, first: int, last: int) -> Gap:
        """Return a gap before the line that continues the chain; it starts a run of lines."""
        _, file, line = self._starts.get((spool, last + 1), (b"", "", 0))
        place = self._name(Path(file)) if line else "an unknown line"
        return Gap(first, last, place, line, spool if len(self._ranges) > 1 else "")

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))

    def _break(self, path: Path, number: int, problem: str) -> None:
        self.report.broken += 1
        if len(self.report.breaks) < MAX_LISTED:
            self.report.breaks.append(InvalidLine(self._name(path), number, problem))


def verify_sink(path: Path) -> SpoolReport:
    """Read a file of a sink with its rotated files, or a directory of such files.

    Raises SpoolError if it cannot be read, or contains no events.
    """
    audit = _SinkAudit(path if path.is_dir() else path.parent)
    files = event_files([path])
    if path.is_file():
        files += [one for one in rotated_files(path) if one not in files]
    audit.report.segments = len(files)
    for one in files:
        with _readable(one):
            audit.read(one, whole_lines(one))
    copies = dict.fromkeys(audit.copied(), b"")
    for one in files if copies else ():
        with _readable(one):
            audit.compare(one, whole_lines(one), copies)
    return audit.finish()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpoolError(f"{path}: cannot be read: {reason}") from None


def rotated_files(path: Path) -> list[Path]:
    """Return the files that a log rotation made of this one: FILE.1, FILE.2.gz, FILE-DATE…"""
    stem = path.name.removesuffix(".gz")
    found = (*path.parent.glob(f"{stem}.*"), *path.parent.glob(f"{stem}-*"))
    return sorted(one for one in found if one.is_file() and one.suffix not in (".lock", ".tmp"))
