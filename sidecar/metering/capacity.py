"""How much of the disk the spool takes, and what is said of that before it is too late."""

from pathlib import Path
from typing import Final

from sidecar.logs import logger

ALMOST: Final = 0.8  # of the room: where it is said that the spool fills up
UNBOUNDED: Final = 1 << 62
_log = logger("spool")


class Room:
    """`used` and `most` are bytes; `full` says why nothing can be written now, None when it can."""

    def __init__(self, directory: Path, most: int, policy: str) -> None:
        self.used = 0
        self.most = most
        self.full: str | None = None
        self.shipped = False  # whether sinks take events away
        self._directory = directory
        self._policy = policy
        self._almost = False  # it has been said

    @property
    def remedy(self) -> str:
        """What makes room in the spool."""
        if self.shipped:
            return (
                "see which sink lags (sidecar_sink_lag_events) and why; or raise --spool-max-bytes"
            )
        return (
            "give --sinks redis, file:PATH or stdout, so that events are shipped and then deleted"
            " here; or raise --spool-max-bytes"
        )

    def has(self, size: int) -> bool:
        """Whether so many bytes more are within the bound."""
        return self.used + size <= self.most

    def took(self, size: int) -> None:
        """Bytes were written, or were there at the start."""
        self.used += size
        if not self._almost and self.used >= ALMOST * self.most:
            self._almost = True
            _log.warning("spool_almost_full", spool=str(self._directory), used_bytes=self.used,
                         max_bytes=self.most, remedy=self.remedy)  # fmt: skip

    def gave(self, size: int) -> None:
        """Segments were deleted."""
        self.used -= size
        self._almost = self._almost and self.used >= ALMOST * self.most

    def at_the_bound(self) -> None:
        """There would be room on the disk, but not for us."""
        self._hold(f"the spool holds {self.used} of {self.most} bytes", self.remedy)

    def refused(self, error: BaseException) -> None:
        """The disk did not take a write."""
        why = getattr(error, "strerror", None) or repr(error)
        self._hold(why, f"make room on the disk of {self._directory}, or see what is wrong with it")

    def _hold(self, why: str, remedy: str) -> None:
        """Said once."""
        if self.full is None:
            _log.error("spool_full", spool=str(self._directory), error=why,
                       policy=self._policy, remedy=remedy)  # fmt: skip
        self.full = why

    def open_again(self) -> None:
        """A write went well."""
        if self.full is not None:
            _log.info("spool_recovered", spool=str(self._directory), error=self.full)
            self.full = None
