"""The last events of several spools as if they were one, and the next ones as they come."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from sidecar.metering.segments import read_mark
from sidecar.metering.verify import tail


async def print_tail(spools: Sequence[Path], count: int, *, follow: bool) -> None:
    """Print the last `count` events of all, by their time; with `follow`, go on with new ones.
    Raises SpoolError."""
    together = _Together(spools, count)

    async def read(spool: Path) -> None:
        async def rest(seconds: float) -> None:
            together.caught_up(spool)
            await asyncio.sleep(seconds)

        async for line in tail(spool, count, follow, sleep=rest):
            together.take(line)
        together.caught_up(spool)

    await asyncio.gather(*map(read, spools))


class _Together:
    """Holds back what is past until every spool has told its own, to put it in order."""

    def __init__(self, spools: Sequence[Path], count: int) -> None:
        self._behind = set(spools)
        self._count = count
        self._past: list[bytes] = []

    def take(self, line: bytes) -> None:
        """A line of one of the spools."""
        if self._behind:
            self._past.append(line)
        else:
            _print(line)

    def caught_up(self, spool: Path) -> None:
        """All that this spool holds now was taken."""
        self._behind.discard(spool)
        if not self._behind:
            past, self._past = sorted(self._past, key=_time), []
            for line in past[max(0, len(past) - self._count) :]:
                _print(line)


def _time(line: bytes) -> str:
    mark = read_mark(line)
    return "" if mark is None else str(mark.event.get("time", ""))


def _print(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
