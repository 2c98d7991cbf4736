"""The disk space of a spool: its bound, its use, and the log events that warn about both."""

from pathlib import Path
from typing import Final

from sidecar.errors import SpoolFilesMissing
from sidecar.logs import logger

WARN_AT: Final = 0.8  # of the bound
UNBOUNDED: Final = 1 << 62
_log = logger("spool")


class Capacity:
    """Bytes in the segments (`used`) and their bound (`max_bytes`).

    `problem` says why the spool cannot write now; None: it can.
    """

    def __init__(self, directory: Path, max_bytes: int, policy: str) -> None:
        self.used = 0
        self.max_bytes = max_bytes
        self.problem: str | None = None
        self.files_missing = False
        self.shipped = False  # whether sinks receive the events
        self._directory = directory
        self._policy = policy
        self._warned = False

    @property
    def remedy(self) -> str:
        """How an operator frees space in the spool."""
        if self.shipped:
            return (
                "find the sink that lags (sidecar_sink_lag_events) and fix it, "
                "or raise --spool-max-bytes"
            )
        return (
            "set --sinks to redis, file:PATH or stdout, so that the sidecar ships and then deletes"
            " events, or raise --spool-max-bytes"
        )

    def fits(self, size: int) -> bool:
        """Whether `size` more bytes are within the bound."""
        return self.used + size <= self.max_bytes

    def add(self, size: int) -> None:
        """Count bytes that were written."""
        self.used += size
        if not self._warned and self.used >= WARN_AT * self.max_bytes:
            self._warned = True
            _log.warning(
                "spool_almost_full",
                spool=str(self._directory),
                used_bytes=self.used,
                max_bytes=self.max_bytes,
                remedy=self.remedy,
            )

    def free(self, size: int) -> None:
        """Count bytes of deleted segments."""
        self.used -= size
        self._warned = self._warned and self.used >= WARN_AT * self.max_bytes

    def report_bound(self) -> None:
        """Stop because the spool has reached its bound."""
        self._stop(f"the spool contains {self.used} of {self.max_bytes} bytes", self.remedy)

    def report_error(self, error: BaseException) -> None:
        """Stop because the disk refused a write, or because files are missing."""
        problem = getattr(error, "strerror", None) or repr(error)
        if isinstance(error, SpoolFilesMissing):
            if not self.files_missing:
                _log.error(
                    "spool_files_missing",
                    spool=str(self._directory),
                    error=problem,
                    policy=self._policy,
                    remedy="put the directory back, or create it; the sidecar then continues",
                )
            self.files_missing, self.problem = True, problem
            return
        self._stop(problem, f"free space on the disk of {self._directory}, or check the disk")

    def _stop(self, problem: str, remedy: str) -> None:
        if self.problem is None:
            _log.error(
                "spool_full",
                spool=str(self._directory),
                error=problem,
                policy=self._policy,
                remedy=remedy,
            )
        self.problem = problem

    def report_success(self) -> None:
        """Resume after a successful write."""
        if self.problem is not None:
            _log.info("spool_recovered", spool=str(self._directory), error=self.problem)
            self.problem, self.files_missing = None, False
