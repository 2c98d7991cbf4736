"""A request to shut down, and how long the process may take for it.

A platform sends SIGTERM: the process accepts requests for a while longer. A person sends SIGINT
and does not wait for that. A second signal of either kind ends every wait.
"""

import asyncio
import signal
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """The state of a shutdown.

    The first signal sets `requested`, the second `hurried`. `skip_delay`: the drain starts
    without the delay in which requests are still accepted.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurried = asyncio.Event()
        self.skip_delay = False

    def handle_signals(self) -> None:
        """Take over SIGTERM and SIGINT of this process."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        self.request(skip_delay=number is signal.SIGINT)

    def request(self, *, skip_delay: bool = False) -> None:
        """Request the shutdown; the second time, hurry it."""
        if self.requested.is_set():
            self.hurried.set()
        else:
            self.skip_delay = skip_delay
            self.requested.set()
