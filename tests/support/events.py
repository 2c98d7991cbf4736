"""Spools, events and sinks with working defaults; a test overrides one thing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from sidecar.errors import SinkDown, SinkRefused
from sidecar.metering.segments import list_segments
from sidecar.metering.spool import Spool


def an_event(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": f"event-{number}", "source": "/sidecar/test",
        "type": "api.request.v1", "subject": "acme", "time": "2026-11-23T08:30:00.123Z",
        "datacontenttype": "application/json",
        "data": {"key": "k1", "usage": {"requests": 1}, "billable": True},
    } | changes  # fmt: skip


@asynccontextmanager
async def a_spool(directory: Path, **options: Any) -> AsyncIterator[Spool]:
    spool = Spool(directory, **({"commit_window_s": 0.001, "retry_s": 0.005} | options))
    spool.open()
    try:
        yield spool
    finally:
        await spool.close()


async def fill(directory: Path, count: int, first: int = 1, **options: Any) -> None:
    """Append the events `first` to `first + count - 1`, and close the spool."""
    async with a_spool(directory, **options) as spool:
        for number in range(first, first + count):
            spool.append(an_event(number))
            if options.get("segment_bytes"):
                await spool.flush()


def lines_in(directory: Path) -> list[bytes]:
    return [
        line
        for one in list_segments(directory)
        for line in one.path.read_bytes().split(b"\n")
        if line
    ]


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def ids(lines: Sequence[bytes]) -> list[str]:
    return [orjson.loads(line)["id"] for line in lines]


def seqs(lines: Sequence[bytes]) -> list[int]:
    return [orjson.loads(line)["seq"] for line in lines]


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until the condition holds; the timeout of the test bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


class ListSink:
    """A sink in memory that fails and refuses on demand."""

    def __init__(self, name: str = "list") -> None:
        self.name = name
        self.lines: list[bytes] = []
        self.batches: list[int] = []  # numbers of lines that it took together
        self.down = False
        self.poison: set[str] = set()
        self.attempts = 0
        self.closed = False

    async def check(self) -> None:
        """Accept the start."""

    async def send(self, lines: Sequence[bytes]) -> None:
        self.attempts += 1
        if self.down:
            raise SinkDown("down for the test")
        if self.poison & set(ids(lines)):
            raise SinkRefused("poison in the batch")
        self.lines.extend(lines)
        self.batches.append(len(lines))

    async def close(self) -> None:
        self.closed = True
