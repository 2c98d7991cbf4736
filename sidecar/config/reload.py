"""Keeps the live plan book: a new file is wholly live or wholly refused (invariant I7)."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sidecar.config.compile_apart import compile_apart
from sidecar.core.model import PlanBook
from sidecar.errors import ConfigError
from sidecar.logs import logger

log = logger("config")

LOOK_SECONDS: Final = 0.5
_Stamp = tuple[str, int, int, int, int] | None


def _now() -> datetime:
    return datetime.now(UTC)


class PlanKeeper:
    """Has a book from `start` on, and keeps the last good one."""

    book: PlanBook
    _live_since: datetime

    def __init__(
        self,
        path: Path,
        on_swap: Callable[[PlanBook], None],
        *,
        now: Callable[[], datetime] = _now,
        compile_apart: Callable[[Path], Awaitable[PlanBook]] = compile_apart,
    ) -> None:
        self._path = path
        self._on_swap = on_swap
        self._now = now
        self._compile_apart = compile_apart
        self._tried = self._seen = _stamp(path)
        self._turn = 0  # counts attempts: the last one that began is the one that counts
        self._asked = asyncio.Event()
        self._failed_since: datetime | None = None
        self._problems: list[str] = []
        self.reloads = 0
        self.failures = 0

    async def start(self) -> None:
        """Read the file for the first time. Raises ConfigError."""
        self._begin()
        self.book = await self._compile_apart(self._path)
        self._live_since = self._now()

    def ask(self) -> None:
        """Have the file read again by `watch`, whether it looks changed or not."""
        self._asked.set()

    async def watch(self) -> None:
        """Look at the file until cancelled, twice a second and when asked to."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
            await self.look()

    async def look(self) -> None:
        """Reload when asked to, or when the file has changed and stood still since the last look.

        What the path leads to is compared, not its folder watched: a watch is lost with a folder
        that is made anew, and sees nothing behind a link into another one. A file that is being
        written is left to rest.
        """
        stamp = _stamp(self._path)
        rested, self._seen = stamp == self._seen, stamp
        if self._asked.is_set() or (rested and stamp != self._tried):
            self._asked.clear()
            await self.reload()

    async def reload(self) -> bool:
        """Read the file again now; a reload that began later has the last word. Whether what is
        live is what was last read."""
        turn = self._begin()
        try:
            book = await self._compile_apart(self._path)
        except ConfigError as error:
            if turn == self._turn:
                self._refuse(error)
        else:
            if turn == self._turn:
                self._take(book)
        return self._failed_since is None

    def _begin(self) -> int:
        # Before reading: a change meanwhile is seen at the next look.
        self._tried = _stamp(self._path)
        self._turn += 1
        return self._turn

    def _take(self, book: PlanBook) -> None:
        self._failed_since, self._problems = None, []
        if book.version != self.book.version:
            self.book = book
            self._live_since = self._now()
            self.reloads += 1
            self._on_swap(book)
            log.info("plan_file_live", version=book.version)

    def _refuse(self, error: ConfigError) -> None:
        self.failures += 1
        self._failed_since = self._failed_since or self._now()
        self._problems = [str(problem) for problem in error.problems]
        errors, live = self._problems[:20], self.book.version
        log.error("plan_file_rejected", errors=errors, live_version=live)

    def status(self) -> dict[str, Any]:
        """Which version is live since when, and what failed since when."""
        return {
            "file": str(self._path),
            "version": self.book.version,
            "live_since": self._live_since.isoformat(),
            "failed_since": self._failed_since.isoformat() if self._failed_since else None,
            "problems": self._problems,
            "reloads": self.reloads,
            "failures": self.failures,
        }


def _stamp(path: Path) -> _Stamp:
    """What tells a file from what was there before; None where there is none."""
    try:
        real = path.resolve(strict=True)
        found = real.stat()
    except (OSError, RuntimeError):  # a loop of links is the latter
        return None
    return str(real), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
