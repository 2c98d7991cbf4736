"""What a readiness probe reports.

A platform sends no requests to a process that is not ready. So only a fault of this process alone
may make it not ready. A shared fault, such as a Redis outage, would take the critical requests
of all sidecars away.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Readiness(NamedTuple):
    """The state of a process: not ready if there are `reasons`; `degraded` lists what it lacks."""

    reasons: list[str]
    degraded: list[str]


def merge(answers: Mapping[int, Readiness], silent: Mapping[int, str]) -> Readiness:
    """Merge the workers' answers: the whole is ready if each worker is.

    `silent`: why a worker did not answer.
    """
    reasons = [f"worker {number}: {reason}" for number, reason in sorted(silent.items())]
    degraded = []
    for number, answer in sorted(answers.items()):
        reasons += [f"worker {number}: {reason}" for reason in answer.reasons]
        degraded += [f"worker {number}: {fault}" for fault in answer.degraded]
    return Readiness(reasons, degraded)
