"""The last events of one spool, or of several in the order of their time, and new ones."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from sidecar.errors import SpoolError
from sidecar.metering.segments import (
    MAX_LINE,
    Segment,
    list_segments,
    parse_line,
    raw_lines,
    segment_path,
)

POLL_S: Final = 0.25


async def write_last_events(
    spools: Sequence[Path], count: int, write: Callable[[bytes], object], *, follow: bool
) -> None:
    """Write the last `count` lines of all spools by time; with `follow`, then new lines as well.

    Raises SpoolError.
    """
    merge = _Merge(spools, count, write)

    async def read(spool: Path) -> None:
        async def sleep(seconds: float) -> None:
            merge.at_end(spool)
            await asyncio.sleep(seconds)

        async for line in last_lines(spool, count, follow, sleep=sleep):
            merge.add(line)
        merge.at_end(spool)

    await asyncio.gather(*map(read, spools))


class _Merge:
    """Buffer of existing lines until every spool is read to its end; new lines pass directly."""

    def __init__(
        self, spools: Sequence[Path], count: int, write: Callable[[bytes], object]
    ) -> None:
        self._unread = set(spools)
        self._count = count
        self._write = write
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        """Add a line of one of the spools."""
        if self._unread:
            self._lines.append(line)
        else:
            self._write(line)

    def at_end(self, spool: Path) -> None:
        """Mark this spool as read to its current end."""
        self._unread.discard(spool)
        if not self._unread:
            lines, self._lines = sorted(self._lines, key=_time), []
            for line in lines[max(0, len(lines) - self._count) :]:
                self._write(line)


def _time(line: bytes) -> str:
    position = parse_line(line)
    return "" if position is None else str(position.event.get("time", ""))


async def last_lines(
    directory: Path,
    count: int = 10,
    follow: bool = False,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[bytes]:
    """Yield the last `count` whole lines, oldest first; with `follow`, then new lines as well.

    Follows into new segments, and past segments that are shipped and deleted. Raises SpoolError.
    """
    try:
        segments = list_segments(directory)
        lines, offset = _last_lines(segments, count)
        for line in lines:
            yield line
        current = segments[-1].first if segments else 0
        while follow:
            # List before reading: once a newer segment exists, the current one is complete.
            newer = [one for one in list_segments(directory) if one.first > current]
            lines = _new_lines(segment_path(directory, current), offset)
            for line in lines:
                offset += len(line) + 1
                yield line
            if lines:
                continue  # this segment may have more
            if newer:
                current, offset = newer[0].first, 0
            else:
                await sleep(POLL_S)
    except OSError as error:
        raise SpoolError(f"--spool: {directory} cannot be read: {error.strerror}") from None


def _last_lines(segments: list[Segment], count: int) -> tuple[list[bytes], int]:
    """Return the last lines, and the offset after the last one in the last segment."""
    lines: list[bytes] = []
    offset = 0
    for segment in reversed(segments):
        last: deque[bytes] = deque(maxlen=max(0, count - len(lines)))
        try:
            for line in raw_lines(segment.path):
                if line.whole:
                    last.append(line.text)
                    if segment is segments[-1]:
                        offset = line.end
        except FileNotFoundError:  # shipped and deleted after the listing, like all older ones
            break
        lines[:0] = last
        if len(lines) >= count:
            break
    return lines, offset


def _new_lines(path: Path, offset: int) -> list[bytes]:
    """Return the whole lines from `offset` on, at most 1 MiB; none if the file is missing."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(MAX_LINE).split(b"\n")[:-1]
    except FileNotFoundError:  # before the first event, or after deletion
        return []
