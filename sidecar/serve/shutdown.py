"""How a process was asked to end, and how much patience it has left.

SIGTERM comes from a platform: calls are taken for a while yet. SIGINT comes from a person,
who does not wait for that. A second signal of either kind ends all that is waited for.
"""

import asyncio
import signal
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """`asked` is set by the first signal, `hurry` by the second; `at_once` skips the delay."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        self.at_once = False

    def listen(self) -> None:
        """Obey the process's signals from now on."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._heard, number)

    def _heard(self, number: signal.Signals) -> None:
        self.ask(at_once=number is signal.SIGINT)

    def ask(self, *, at_once: bool = False) -> None:
        """Once: end. Twice: now."""
        if self.asked.is_set():
            self.hurry.set()
        else:
            self.at_once = at_once
            self.asked.set()
