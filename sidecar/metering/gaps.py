"""Which numbers of which spools were seen: proves what is missing from a pile of events."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

SPOOLS: Final = 1_000  # that are looked after; more are counted as one whole
RUNS: Final = 10_000  # of numbers without a gap, in one spool


class Missing(NamedTuple):
    """Numbers `first` to `last` of a spool were not seen."""

    spool: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"spool {self.spool}: events {self.first:,} to {self.last:,}"


class SequenceCoverage:
    """Fed with every line's place in its chain, in any order, copies included."""

    def __init__(self) -> None:
        self._runs: dict[str, dict[int, int]] = {}  # spool → last number of a run → its first
        self._ends: dict[str, int] = {}  # spool → its next number, as its head says
        self.unknown = False  # there is more than can be remembered: nothing can be proven

    def saw(self, spool: Any, seq: Any) -> None:
        """The event with this number. What is no place in a chain is nobody's gap."""
        runs = self._runs.get(spool) if type(spool) is str else None
        if type(seq) is not int:
            return
        if runs is None:
            runs = self._new(spool)
            if runs is None:
                return
        first = runs.pop(seq - 1, None)
        if first is not None:
            runs[seq] = min(first, runs.get(seq, first))
        elif seq not in runs:
            runs[seq] = seq
            if len(runs) > RUNS:
                self._tidy(runs)

    def ends(self, spool: str, next_seq: int) -> None:
        """A spool's head was read: numbers below `next_seq` were given out."""
        if self._runs.get(spool) is not None or self._new(spool) is not None:
            self._ends[spool] = max(next_seq, self._ends.get(spool, 1))

    def _new(self, spool: Any) -> dict[int, int] | None:
        if type(spool) is not str or len(self._runs) >= SPOOLS:
            self.unknown = self.unknown or type(spool) is str
            return None
        return self._runs.setdefault(spool, {})

    def _tidy(self, runs: dict[int, int]) -> None:
        whole = _merged(runs)
        if len(whole) > RUNS // 2:
            self.unknown = True
            whole = [(whole[0][0], whole[-1][1])]
        runs.clear()
        runs.update((last, first) for first, last in whole)

    def missing(self) -> Iterator[Missing]:
        """What lies before and between the numbers that were seen, from 1 on, and what its head
        tells of beyond them."""
        for spool, runs in sorted(self._runs.items()):
            after = 1
            for first, last in _merged(runs):
                if first > after:
                    yield Missing(spool, after, first - 1)
                after = max(after, last + 1)
            if after < self._ends.get(spool, 1):
                yield Missing(spool, after, self._ends[spool] - 1)


def _merged(runs: dict[int, int]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for last, first in sorted(runs.items(), key=lambda run: (run[1], run[0])):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return merged
