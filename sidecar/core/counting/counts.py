"""What a counter counts, as one number.

The number stays the same when plan, time zone, billing anchor or units change. It differs for
another meter, and for a period of another length: month and cycle have the same length.
"""

import hashlib
from functools import lru_cache
from typing import Final

from sidecar.core.kinds import Limit, PeriodLimit, RateLimit
from sidecar.core.periods import usual_s

LENGTHS: Final = 2**32  # more than the seconds of any period
METERS: Final = 2**21 - 1  # so that the number is exact in a double


def counts_of(limit: Limit) -> int:
    """Return what the limit's counter counts; 0: always the same."""
    if isinstance(limit, PeriodLimit):
        return _number(limit.meter, usual_s(limit.period))
    return _number(limit.meter, 0) if isinstance(limit, RateLimit) else 0


def meter_of(counts: int) -> int:
    """Return the part of the number that identifies the meter."""
    return counts // LENGTHS


def meter_number(meter: str) -> int:
    """Return the number that identifies a meter."""
    return meter_of(_number(meter, 0))


@lru_cache(maxsize=4096)
def _number(meter: str, seconds: int) -> int:
    digest = hashlib.sha256(meter.encode()).digest()
    return (int.from_bytes(digest[:8]) % METERS + 1) * LENGTHS + seconds
