"""Coverage of sequence numbers: proves which events are missing from a set of files."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

MAX_SPOOLS: Final = 1_000
MAX_RUNS: Final = 10_000  # runs of consecutive numbers in one spool


class MissingEvents(NamedTuple):
    """The events `first` to `last` of a spool are missing."""

    spool: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"spool {self.spool}: events {self.first:,} to {self.last:,}"


class SequenceCoverage:
    """The sequence numbers present in each spool. Takes them in any order, with copies."""

    def __init__(self) -> None:
        self._runs: dict[str, dict[int, int]] = {}  # spool → last number of a run → its first
        self._ends: dict[str, int] = {}  # spool → its next number, from its head
        self.incomplete = False  # a bound was reached: missing events cannot be proven

    def add(self, spool: Any, seq: Any) -> None:
        """Add the number of one event. Ignores what is not a position in a chain."""
        runs = self._runs.get(spool) if type(spool) is str else None
        if type(seq) is not int:
            return
        if runs is None:
            runs = self._add_spool(spool)
            if runs is None:
                return
        first = runs.pop(seq - 1, None)
        if first is not None:
            runs[seq] = min(first, runs.get(seq, first))
        elif seq not in runs:
            runs[seq] = seq
            if len(runs) > MAX_RUNS:
                self._compact(runs)

    def add_head(self, spool: str, next_seq: int) -> None:
        """Add the head of a spool: it has used all numbers below `next_seq`."""
        if self._runs.get(spool) is not None or self._add_spool(spool) is not None:
            self._ends[spool] = max(next_seq, self._ends.get(spool, 1))

    def _add_spool(self, spool: Any) -> dict[int, int] | None:
        if type(spool) is not str or len(self._runs) >= MAX_SPOOLS:
            self.incomplete = self.incomplete or type(spool) is str
            return None
        return self._runs.setdefault(spool, {})

    def _compact(self, runs: dict[int, int]) -> None:
        merged = _merged(runs)
        if len(merged) > MAX_RUNS // 2:
            self.incomplete = True
            merged = [(merged[0][0], merged[-1][1])]
        runs.clear()
        runs.update((last, first) for first, last in merged)

    def missing(self) -> Iterator[MissingEvents]:
        """Yield the gaps from number 1 up to the last number, or up to the head of the spool."""
        for spool, runs in sorted(self._runs.items()):
            after = 1
            for first, last in _merged(runs):
                if first > after:
                    yield MissingEvents(spool, after, first - 1)
                after = max(after, last + 1)
            if after < self._ends.get(spool, 1):
                yield MissingEvents(spool, after, self._ends[spool] - 1)


def _merged(runs: dict[int, int]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for last, first in sorted(runs.items(), key=lambda run: (run[1], run[0])):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged
