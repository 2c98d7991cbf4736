"""Whether a refused request can wait until it fits, and for how long. Pure arithmetic.

Only rates and slots recover within seconds. A request is refused at once for a used-up quota, for
the critical guard, and if it is larger than its bucket.
"""

from collections.abc import Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.kinds import MICRO, ConcurrencyLimit, RateLimit, RefillLimit
from sidecar.core.model import Claim
from sidecar.core.reasons import LimitStatus, Wait

# The interval of tries for a slot: slots that other sidecars free are not announced.
SLOT_POLL_US: Final = 100_000


def fits_in_us(limit: RateLimit, used: int, units: int) -> int:
    """Return the span until `units` fit into a bucket with `used` micro-units; ≤ 0: they fit."""
    gain, per = limit.refill
    return -((used + (units - limit.burst) * MICRO) * per // -gain)


def refill_us(limit: RateLimit, units: int) -> int:
    """Return the span in which a bucket gains `units`, rounded up."""
    gain, per = limit.refill
    return -(units * MICRO * per // -gain)


def wait_of(violated: Sequence[LimitStatus], now_us: int) -> Wait | None:
    """Return how a request waits that these limits refuse; the first takes longest to recover.

    None if one of them does not let requests wait, or not for as long as it takes.
    """
    limit = violated[0].claim.limit
    spans = [_span_us(status, now_us) for status in violated]
    if None in spans or not isinstance(limit, RefillLimit):
        return None
    span = max(span for span in spans if span is not None)
    patience = min(status.claim.limit.max_wait_us for status in violated)
    return Wait(limit, span, patience) if 0 < span <= patience else None


def _span_us(status: LimitStatus, now_us: int) -> int | None:
    limit = status.claim.limit
    if not limit.max_wait_us:
        return None
    if isinstance(limit, ConcurrencyLimit):
        return min(SLOT_POLL_US, limit.max_wait_us)
    return None if status.reset_us is None else max(1, status.reset_us - now_us)


def next_try_us(limit: RefillLimit, used: int, units: int) -> int:
    """Return the span until a try for `units` is worth it, when this much is in use."""
    if isinstance(limit, ConcurrencyLimit):
        return 0 if used + units <= limit.slots else SLOT_POLL_US
    return max(0, fits_in_us(limit, used, units))


def free_units(limit: RefillLimit, used: int) -> int:
    """Return how many units can be taken at once."""
    return max(0, limit.full - used) // limit.weight(1)


def used_of(limit: RefillLimit, claims: Sequence[Claim], answer: Answer) -> int | None:
    """Return what the answer reports as used of a limit; None if it was not claimed."""
    for claim, used in zip(claims, answer.used, strict=True):
        if claim.limit.id == limit.id:
            return used
    return None
