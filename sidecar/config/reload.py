"""The live plan file: a changed file goes live as a whole, or not at all (invariant I7)."""

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

CHECK_EVERY_S: Final = 0.5
MOST_LOGGED: Final = 20  # problems or warnings, in one log event
_Stamp = tuple[str, int, int, int, int] | None


def _now() -> datetime:
    return datetime.now(UTC)


class LivePlanFile:
    """The plan book in use, from `start` on. An invalid file leaves the last valid one live."""

    book: PlanBook
    _live_since: datetime

    def __init__(
        self,
        path: Path,
        on_change: Callable[[PlanBook], None],
        *,
        now: Callable[[], datetime] = _now,
        compile_apart: Callable[[Path], Awaitable[PlanBook]] = compile_apart,
    ) -> None:
        self._path = path
        self._on_change = on_change
        self._now = now
        self._compile_apart = compile_apart
        self._loaded_stamp = self._last_stamp = _stamp(path)
        self._attempt = 0  # the attempt that began last decides what is live
        self._requested = asyncio.Event()
        self._failed_since: datetime | None = None
        self._problems: list[str] = []
        self.reloads = 0
        self.failures = 0

    async def start(self) -> None:
        """Load the file for the first time. Raises ConfigError if it is invalid."""
        self._begin()
        self.book = await self._compile_apart(self._path)
        self._live_since = self._now()
        self._log_warnings()

    def request_reload(self) -> None:
        """Let `watch` reload the file at once, whether it has changed or not."""
        self._requested.set()

    async def watch(self) -> None:
        """Check the file twice a second and on request, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_EVERY_S):
                    await self._requested.wait()
            await self.check()

    async def check(self) -> None:
        """Reload on request, or if the file has changed and is the same as at the last check.

        A file that changes between two checks is still being written. Polling follows the path
        through symlinks: a watch on the folder is lost with the folder, and does not see a change
        behind a symlink into another folder.
        """
        stamp = _stamp(self._path)
        stable, self._last_stamp = stamp == self._last_stamp, stamp
        if self._requested.is_set() or (stable and stamp != self._loaded_stamp):
            self._requested.clear()
            await self.reload()

    async def reload(self) -> bool:
        """Load the file now; return whether the live plans are those of the file.

        If a later reload begins before it ends, its result counts and this one is dropped.
        """
        attempt = self._begin()
        try:
            book = await self._compile_apart(self._path)
        except ConfigError as error:
            if attempt == self._attempt:
                self._reject(error)
        else:
            if attempt == self._attempt:
                self._accept(book)
        return self._failed_since is None

    def _begin(self) -> int:
        # The stamp is taken before reading, so the next check sees a change during the reading.
        self._loaded_stamp = _stamp(self._path)
        self._attempt += 1
        return self._attempt

    def _accept(self, book: PlanBook) -> None:
        was_invalid = self._failed_since is not None
        self._failed_since, self._problems = None, []
        changed = book.version != self.book.version
        if changed:
            self.book = book
            self._live_since = self._now()
            self.reloads += 1
            self._on_change(book)
        if changed or was_invalid:
            log.info("plan_file_live", version=book.version)
        if changed:
            self._log_warnings()

    def _log_warnings(self) -> None:
        warnings = self.book.warnings
        if warnings:
            log.warning(
                "plan_file_warnings", count=len(warnings), warnings=list(warnings[:MOST_LOGGED])
            )

    def _reject(self, error: ConfigError) -> None:
        self.failures += 1
        self._failed_since = self._failed_since or self._now()
        self._problems = [str(problem) for problem in error.problems]
        errors, live = self._problems[:MOST_LOGGED], self.book.version
        log.error("plan_file_rejected", errors=errors, live_version=live)

    def status(self) -> dict[str, Any]:
        """The live version and since when; since when reloads fail, and why."""
        return {
            "file": str(self._path),
            "version": self.book.version,
            "live_since": self._live_since.isoformat(),
            "failed_since": self._failed_since.isoformat() if self._failed_since else None,
            "problems": self._problems,
            "warnings": len(self.book.warnings),
            "reloads": self.reloads,
            "failures": self.failures,
        }


def _stamp(path: Path) -> _Stamp:
    """What identifies the content of a file without reading it. None if the file is absent."""
    try:
        real = path.resolve(strict=True)
        stat = real.stat()
    except (OSError, RuntimeError):  # RuntimeError: symlinks in a circle
        return None
    return str(real), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
