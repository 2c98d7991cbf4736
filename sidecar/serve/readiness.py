"""What a probe is told: whether calls should be sent here, and what they would miss.

Who is not ready gets no calls. So only what concerns this process alone may make it not ready:
what is gone for all of them at once (Redis) would take the critical calls along.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Readiness(NamedTuple):
    """`reasons`: why no calls should be sent here; empty when they should. `degraded`: what calls
    are without meanwhile; nobody need be sent elsewhere for that."""

    reasons: list[str]
    degraded: list[str]


def merged(told: Mapping[int, Readiness], silent: Mapping[int, str]) -> Readiness:
    """One word for all workers: each has to be ready. `silent`: why one said nothing."""
    reasons = [f"worker {number}: {why}" for number, why in sorted(silent.items())]
    degraded = []
    for number, one in sorted(told.items()):
        reasons += [f"worker {number}: {reason}" for reason in one.reasons]
        degraded += [f"worker {number}: {what}" for what in one.degraded]
    return Readiness(reasons, degraded)
