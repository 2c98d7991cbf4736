"""What the log says of the API: a line when it goes and one when it is back, not one per call."""

from collections.abc import Callable
from typing import Final

from sidecar.logs import logger

log = logger("proxy")

QUIET_S: Final = 10.0  # between two lines about single calls that the API failed


class Reachability:
    """Whether new connections to the API can be had, and which of its answers did not come."""

    def __init__(self, where: str, now: Callable[[], float]) -> None:
        self._where = where
        self._now = now
        self._failed = 0  # connections in a row that could not be had
        self._since = 0.0
        self._missing: dict[str, int] = {}  # answers since the last line, by what was wrong
        self._quiet_until = 0.0

    def failed(self, problem: str) -> None:
        """A new connection could not be had."""
        if not self._failed:
            self._since = self._now()
            log.error("upstream_unreachable", upstream=self._where, error=problem)
        self._failed += 1

    def reached(self) -> None:
        """A new connection is there."""
        if self._failed:
            log.info(
                "upstream_reachable",
                upstream=self._where,
                failed=self._failed,
                seconds=round(self._now() - self._since, 1),
            )
            self._failed = 0

    def unanswered(self, problem: str) -> None:
        """A call got no (whole) answer: told at once, then in sums. The problems are few."""
        self._missing[problem] = self._missing.get(problem, 0) + 1
        self.sweep()

    def sweep(self) -> None:
        """Tell what there is to tell, if it is time."""
        if not self._missing or self._now() < self._quiet_until:
            return
        self._quiet_until = self._now() + QUIET_S
        missing, self._missing = self._missing, {}
        for problem, calls in missing.items():
            log.warning("upstream_no_response", upstream=self._where, error=problem, calls=calls)
