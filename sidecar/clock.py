"""Wall time and identifiers: the one place where a node's clock and randomness enter.

Neither takes part in limits (those use Redis time): they name requests and date events.
"""

import os
import random
import time
from datetime import UTC, datetime
from typing import Final

_VARIANT: Final = 0b10 << 62
_NOT_VARIANT: Final = ~(0b11 << 62)


class Clock:
    """Reads the wall clock and makes identifiers. Tests pass one that they drive."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))  # noqa: S311 - ids are unique, not secret
        self._second = -1
        self._second_text = ""
        self._millisecond = -1
        self._prefix = ""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns()

    def timestamp(self, now_ns: int) -> str:
        """RFC 3339 in UTC with milliseconds, as CloudEvents wants `time`."""
        second, rest = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{rest // 1_000_000:03d}Z"

    def request_id(self, now_ns: int) -> str:
        """A UUIDv7 (RFC 9562, section 5.7): sorts by time, unique without coordination."""
        noise = "%019x" % (self._random.getrandbits(76) & _NOT_VARIANT | _VARIANT)
        millisecond = now_ns // 1_000_000
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            text = f"{millisecond:012x}"
            self._prefix = f"{text[:8]}-{text[8:]}-7"
        # version 7, 12 random bits, variant 0b10, 62 random bits
        return f"{self._prefix}{noise[:3]}-{noise[3:7]}-{noise[7:]}"

    def jitter(self) -> int:
        """0 to 99: spreads the return of clients that were refused together."""
        return self._random.randrange(100)
