"""Wall time and identifiers, the only use of the machine's clock and randomness.

They name requests and date events. Limits use Redis time (I8).
"""

import os
import random
import re
import time
from datetime import UTC, datetime
from typing import Final

_BYTES: Final = 9  # of randomness in an identifier: 72 bits
_BATCH: Final = 32  # identifiers per batch of randomness
# The random digits of an identifier, as they stand between its fixed ones.
_PARTS: Final = re.compile("(...)(...)(............)")


class Clock:
    """Reads the wall clock and creates identifiers. Tests replace it."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))  # noqa: S311 - ids are unique, not secret
        self._parts: list[tuple[str, str, str]] = []  # random digits of identifiers to come
        self._second = -1
        self._second_text = ""
        self._millisecond = -1
        self._prefix = ""
        self._timestamp_ms = -1
        self._timestamp = ""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns()

    def timestamp(self, now_ns: int) -> str:
        """RFC 3339 in UTC with milliseconds, the format of CloudEvents' `time`."""
        millisecond = now_ns // 1_000_000
        if millisecond != self._timestamp_ms:
            second, rest = divmod(millisecond, 1_000)
            if second != self._second:
                self._second = second
                when = datetime.fromtimestamp(second, UTC)
                self._second_text = when.strftime("%Y-%m-%dT%H:%M:%S")
            self._timestamp_ms, self._timestamp = millisecond, f"{self._second_text}.{rest:03d}Z"
        return self._timestamp

    def request_id(self, now_ns: int) -> str:
        """A UUIDv7 (RFC 9562, section 5.7), which sorts by time."""
        millisecond = now_ns // 1_000_000
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            text = f"{millisecond:012x}"
            self._prefix = f"{text[:8]}-{text[8:]}-7"
        if not self._parts:
            self._parts = _PARTS.findall(self._random.randbytes(_BYTES * _BATCH).hex())
        first, middle, last = self._parts.pop()
        # version 7, 12 random bits, variant 0b10, two bits that stay 0, 60 random bits
        return f"{self._prefix}{first}-8{middle}-{last}"

    def jitter(self) -> int:
        """0 to 99, to spread the retries of clients that were refused together."""
        return self._random.randrange(100)
