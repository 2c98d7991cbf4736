"""A request to shut down, and how long the process may take for it.

A platform sends SIGTERM: the process accepts requests for a while longer. A person sends SIGINT
and does not wait for that. A second signal of either kind ends every wait.

SIGUSR1 announces the shutdown: the process asks clients to go elsewhere, but serves until SIGTERM.
Kubernetes sends SIGTERM to a sidecar only after the API has ended, which is too late for that.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from sidecar import logs

log = logs.logger("process")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
ANNOUNCEMENT: Final = signal.SIGUSR1


class Shutdown:
    """The state of a shutdown.

    The first signal sets `requested`, the second `hurried`. `skip_delay`: the drain starts
    without the delay in which requests are still accepted. `on_announced` runs once, when the
    shutdown is announced before it is requested.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurried = asyncio.Event()
        self.skip_delay = False
        self.on_announced: Callable[[], None] = lambda: None
        self._announced_at: float | None = None  # time of the event loop

    def handle_signals(self) -> None:
        """Take over SIGTERM, SIGINT and SIGUSR1 of this process."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(ANNOUNCEMENT, self._on_announcement)

    def _on_signal(self, number: signal.Signals) -> None:
        self.request(skip_delay=number is signal.SIGINT)

    def _on_announcement(self) -> None:
        log.info("drain_announced")
        self.announce()

    def request(self, *, skip_delay: bool = False) -> None:
        """Request the shutdown; the second time, hurry it."""
        if self.requested.is_set():
            self.hurried.set()
        else:
            self.skip_delay = skip_delay
            self.requested.set()

    @property
    def announced(self) -> bool:
        """Whether the shutdown was announced."""
        return self._announced_at is not None

    def announce(self) -> None:
        """Announce the shutdown. Without effect if it was announced or requested before."""
        if not self.announced and not self.requested.is_set():
            self._announced_at = asyncio.get_running_loop().time()
            self.on_announced()

    def delay_s(self, full_s: float) -> float:
        """The part of the drain delay `full_s` that has not passed since the announcement."""
        if self.skip_delay or not self.requested.is_set():
            return 0.0
        if self._announced_at is None:
            return full_s
        return max(0.0, self._announced_at + full_s - asyncio.get_running_loop().time())
