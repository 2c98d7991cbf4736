"""Estimated start of a job, from the state of its account's limits and the jobs before it."""

from collections.abc import Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit
from sidecar.core.model import Claim
from sidecar.core.periods import longest_s

MAX_ETA_US: Final = 10 * 366 * 86_400 * MICRO


def eta_us(claims: Sequence[Claim], answer: Answer, ahead: int) -> int | None:
    """Return the instant at which a job with these claims fits; None if it never does.

    The estimate assumes that each of the `ahead` jobs before it costs the same, and that no other
    request uses the limits. Concurrency limits are assumed to be free.
    """
    waits = [
        _wait_us(claim, answer, at, ahead)
        for at, claim in enumerate(claims)
        if not (claim.forced or claim.limit.shadow)
    ]
    if any(wait is None for wait in waits):
        return None
    return answer.now_us + max((wait for wait in waits if wait is not None), default=0)


def _wait_us(claim: Claim, answer: Answer, at: int, ahead: int) -> int | None:
    limit, used, cost = claim.limit, answer.used[at], claim.cost
    if isinstance(limit, RateLimit):
        if cost > limit.burst:
            return None
        gain, per = limit.refill
        over = used + ((ahead + 1) * cost - limit.burst) * MICRO
        return max(0, -(over * per // -gain))
    if not isinstance(limit, QuotaLimit):
        return 0
    if cost > limit.cap:
        return None
    extra = 0
    if answer.details:
        extra = answer.details[at].carried + answer.details[at].left
    left = limit.cap + extra - used
    if (ahead + 1) * cost <= left:
        return 0
    rank = ahead + 1 - (max(0, left) // cost if cost else 0)  # among the jobs of later periods
    periods = -(-rank // max(1, limit.cap // cost)) - 1
    reset = answer.ends_us[at] - answer.now_us
    return min(reset + periods * longest_s(limit.period) * MICRO, MAX_ETA_US)
