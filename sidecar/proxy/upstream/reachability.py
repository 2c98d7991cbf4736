"""Logs when the API becomes unreachable and reachable, instead of a line per request."""

from collections.abc import Callable
from typing import Final

from sidecar.logs import logger

log = logger("proxy")

QUIET_S: Final = 10.0  # between two log events about missing responses


class Reachability:
    """Whether new connections to the API succeed, and how many responses are missing."""

    def __init__(self, upstream: str, now: Callable[[], float]) -> None:
        self._upstream = upstream
        self._now = now
        self._failed = 0  # connections in a row
        self._since = 0.0
        self._missing: dict[str, int] = {}  # responses since the last log event, by error
        self._quiet_until = 0.0

    def connect_failed(self, error: str) -> None:
        """Note that a new connection failed."""
        if not self._failed:
            self._since = self._now()
            log.error("upstream_unreachable", upstream=self._upstream, error=error)
        self._failed += 1

    def connected(self) -> None:
        """Note that a new connection succeeded."""
        if self._failed:
            log.info(
                "upstream_reachable",
                upstream=self._upstream,
                failed_attempts=self._failed,
                duration_s=round(self._now() - self._since, 1),
            )
            self._failed = 0

    def response_missing(self, error: str) -> None:
        """Note that a request got no response, or an incomplete one.

        The first one is logged at once, the next ones in sums. `error` is one of few texts.
        """
        self._missing[error] = self._missing.get(error, 0) + 1
        self.sweep()

    def sweep(self) -> None:
        """Log the missing responses if the last log event is QUIET_S ago."""
        if not self._missing or self._now() < self._quiet_until:
            return
        self._quiet_until = self._now() + QUIET_S
        missing, self._missing = self._missing, {}
        for error, count in missing.items():
            log.warning(
                "upstream_no_response", upstream=self._upstream, error=error, requests=count
            )
