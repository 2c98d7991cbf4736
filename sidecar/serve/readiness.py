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


class Condition(NamedTuple):
    """What the readiness of one process follows from.

    `redis`: why Redis cannot be used, or None. `redis_was_reachable`: at any time since the start.
    `spool_problem`: why events are only in the buffer of the spool, or None.
    `missing`: events that the spool has lost. `faults`: what else is degraded.
    """

    serving: bool
    stopping: bool
    redis: str | None
    redis_was_reachable: bool
    spool_accepts: bool
    spool_problem: str | None
    missing: int
    faults: list[str]


def judge(condition: Condition) -> Readiness:
    """Return whether requests should be sent to a process, and what they would lack.

    Redis counts until it was reachable once: before, the sidecar knows only the API keys in its
    plan file.
    """
    reasons: list[str] = []
    degraded: list[str] = []
    if not condition.serving:
        reasons.append("starting")
    if condition.stopping:
        reasons.append("draining")
    if condition.redis is not None:
        lacking = degraded if condition.redis_was_reachable else reasons
        lacking.append(f"redis: {condition.redis}")
    if not condition.spool_accepts:
        degraded.append("spool: full or not writable; only critical requests are forwarded")
    elif condition.spool_problem is not None:  # --spool-full drop
        problem = condition.spool_problem
        degraded.append(f"spool: {problem}; events are dropped once its buffer is full")
    degraded += condition.faults
    if condition.missing:
        degraded.append(f"spool: {condition.missing} events are missing or damaged; see the log")
    return Readiness(reasons, degraded)


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
