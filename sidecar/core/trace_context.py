"""W3C Trace Context: the traceparent of a client, and which traces are sampled."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

# Version 00 has exactly four fields; later versions may have more (sections 3.2.2 and 4.3).
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
RANDOM_DIGITS: Final = 14  # hex digits at the end of a trace id that are random (Level 2)
_RANDOM_RANGE: Final = 1 << (4 * RANDOM_DIGITS)


class TraceParent(NamedTuple):
    """The client's span: hex digits, as received."""

    trace_id: bytes
    span_id: bytes
    flags: bytes

    @property
    def sampled(self) -> bool:
        """Whether the client records its part of the trace."""
        return int(self.flags, 16) & 1 == 1


def parse_parent(values: Sequence[bytes]) -> TraceParent | None:
    """Return the client's span; None unless there is exactly one valid traceparent."""
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0])
    if match is None or (match[5] is not None and match[1] == b"00"):
        return None
    return TraceParent(match[2], match[3], match[4])


def is_sampled(trace_id: str, ratio: float) -> bool:
    """Whether a new trace belongs to the sampled part, `ratio` of all.

    Decides by the random digits, as OpenTelemetry's consistent sampling does: processes with the
    same ratio choose the same traces. The digits before them are a time and constant bits.
    """
    return int(trace_id[-RANDOM_DIGITS:], 16) >= (1.0 - ratio) * _RANDOM_RANGE
