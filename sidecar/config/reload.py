"""Keeps the live plan book: a new file is wholly live or wholly refused (invariant I7)."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watchfiles import awatch

from sidecar.config.loading import load
from sidecar.core.model import PlanBook
from sidecar.errors import ConfigError
from sidecar.logs import logger

log = logger("config")


def _now() -> datetime:
    return datetime.now(UTC)


class PlanKeeper:
    """Loads the file at once: raises ConfigError when even the first one is wrong."""

    def __init__(
        self,
        path: Path,
        on_swap: Callable[[PlanBook], None],
        *,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._path = path
        self._on_swap = on_swap
        self._now = now
        self.book = load(path)
        self._live_since = now()
        self._failed_since: datetime | None = None
        self._problems: list[str] = []
        self.reloads = 0
        self.failures = 0

    def reload(self) -> bool:
        """Read the file again. Whether what is live now is what is in the file."""
        try:
            book = load(self._path)
        except ConfigError as error:
            self.failures += 1
            self._failed_since = self._failed_since or self._now()
            self._problems = [str(problem) for problem in error.problems]
            log.error(
                "plan file refused; the last good one stays live",
                problems=self._problems[:20],
                live=self.book.version,
            )
            return False
        self._failed_since, self._problems = None, []
        if book.version != self.book.version:
            self.book = book
            self._live_since = self._now()
            self.reloads += 1
            self._on_swap(book)
            log.info("plan file is live", version=book.version)
        return True

    async def watch(self) -> None:
        """Reload whenever something in the file's folder changes: an editor's rename, and the
        symlink swap by which Kubernetes updates a ConfigMap, never touch the file itself."""
        async for _ in awatch(self._path.parent, recursive=False, step=50, debounce=400):
            self.reload()

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
