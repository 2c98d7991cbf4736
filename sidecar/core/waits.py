"""Whether a refused call may be held until it fits, and for how long. Pure arithmetic.

Only rates and slots come back by themselves within seconds; a spent quota, the critical guard and
a call that is larger than its bucket are refused at once.
"""

from collections.abc import Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.model import MICRO, Claim, ConcurrencyLimit, QuotaLimit, RateLimit
from sidecar.core.reasons import LimitStatus, Wait

# Who frees a slot on another sidecar does not tell us: it is looked for as often as this.
SLOT_LOOK_US: Final = 100_000


def fits_in_us(limit: RateLimit, used: int, units: int) -> int:
    """Microseconds until `units` fit into a bucket that now holds `used` micro-units; 0 or less
    when they fit already."""
    gain, per = limit.refill
    return -((used + (units - limit.burst) * MICRO) * per // -gain)


def refill_us(limit: RateLimit, units: int) -> int:
    """Microseconds in which a bucket gains `units`, rounded up."""
    gain, per = limit.refill
    return -(units * MICRO * per // -gain)


def wait_of(violated: Sequence[LimitStatus], now_us: int) -> Wait | None:
    """How a call waits that these limits refuse; the first of them takes longest to recover.
    None when one of them lets nobody wait, or not for as long as it takes."""
    spans = [_span_us(standing, now_us) for standing in violated]
    limit = violated[0].claim.limit
    if isinstance(limit, QuotaLimit) or None in spans:
        return None
    span = max(span for span in spans if span is not None)
    patience = min(
        one.claim.limit.max_wait_us
        for one in violated
        if not isinstance(one.claim.limit, QuotaLimit)
    )
    return Wait(limit, span, patience) if 0 < span <= patience else None


def _span_us(standing: LimitStatus, now_us: int) -> int | None:
    limit = standing.claim.limit
    if isinstance(limit, QuotaLimit) or not limit.max_wait_us:
        return None
    if isinstance(limit, ConcurrencyLimit):
        return min(SLOT_LOOK_US, limit.max_wait_us)
    return None if standing.reset_us is None else max(1, standing.reset_us - now_us)


def next_try_us(limit: RateLimit | ConcurrencyLimit, used: int, units: int) -> int:
    """Microseconds until it is worth trying to take `units`, when this much is in use."""
    if isinstance(limit, ConcurrencyLimit):
        return 0 if used + units <= limit.slots else SLOT_LOOK_US
    return max(0, fits_in_us(limit, used, units))


def free_units(limit: RateLimit | ConcurrencyLimit, used: int) -> int:
    """How many units could be taken at once."""
    if isinstance(limit, ConcurrencyLimit):
        return max(0, limit.slots - used)
    return max(0, limit.burst * MICRO - used) // MICRO


def used_of(
    limit: RateLimit | ConcurrencyLimit, claims: Sequence[Claim], answer: Answer
) -> int | None:
    """What the answer says is in use of a limit; None when it was not asked for."""
    for claim, used in zip(claims, answer.used, strict=True):
        if claim.limit.id == limit.id:
            return used
    return None
