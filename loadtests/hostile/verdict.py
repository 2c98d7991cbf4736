"""The guarantees during an attack, as pure functions of the evidence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtests.faults.verdict import percentile
from loadtests.hostile.clients import CRITICAL, NORMAL, Client, Measurements

MIB: Final = 1 << 20
SLOWER: Final = 2.0  # times the p99 without the attack
LEAST_MS: Final = 10.0  # a lower p99 counts as this one: below it, the machine's noise decides
LARGER: Final = 2.0  # times the resident memory without the attack
REDIS_BUDGET: Final = 16 * MIB  # bytes that an attack may add to Redis
LEAST_REQUESTS: Final = 10  # of each client in each phase: fewer prove nothing


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed of one attack.

    `sent`: connections and requests of the attacker. `idle_bytes` and `peak_bytes`: resident memory
    of the sidecar before the attack and at most. `redis_growth`: bytes added to Redis at most.
    """

    name: str
    connections: int
    sent: int
    measurements: Measurements
    idle_bytes: int
    peak_bytes: int
    redis_growth: int
    error_lines: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `wrong`: the violations, as sentences."""

    name: str
    connections: int
    sent: int
    requests: int
    failed: int
    normal_ms: tuple[float, float]  # p99 without and with the attack
    critical_ms: tuple[float, float]
    idle_mib: float
    peak_mib: float
    redis_mib: float
    wrong: tuple[str, ...]


def row_of(evidence: Evidence, *, timed: bool = True) -> Row:
    """The row of an attack, with its verdict.

    Without `timed`, latency is not judged: the machine may be too busy.
    """
    measurements = evidence.measurements
    wrong = [
        *_unproved(evidence),
        *_failures(measurements),
        *_memory(evidence),
        *(f"log: {line[:200]}" for line in evidence.error_lines),
    ]
    if timed:
        wrong += [*_slow(measurements, NORMAL), *_slow(measurements, CRITICAL)]
    return Row(
        name=evidence.name,
        connections=evidence.connections,
        sent=evidence.sent,
        requests=sum(len(measurements.of(client, "attack")) for client in (NORMAL, CRITICAL)),
        failed=measurements.failures.total(),
        normal_ms=p99s(measurements, NORMAL),
        critical_ms=p99s(measurements, CRITICAL),
        idle_mib=evidence.idle_bytes / MIB,
        peak_mib=evidence.peak_bytes / MIB,
        redis_mib=evidence.redis_growth / MIB,
        wrong=tuple(wrong),
    )


def p99s(measurements: Measurements, client: Client) -> tuple[float, float]:
    """The p99 of a client without and with the attack, in milliseconds."""
    calm, attack = measurements.of(client, "calm"), measurements.of(client, "attack")
    return percentile(calm, 99), percentile(attack, 99)


def _unproved(evidence: Evidence) -> list[str]:
    """Evidence that is missing, so that the run proves nothing."""
    wrong = [] if evidence.sent else ["the attacker sent nothing: the run proves nothing"]
    for client in (NORMAL, CRITICAL):
        for phase in ("calm", "attack"):
            count = len(evidence.measurements.of(client, phase))
            if count < LEAST_REQUESTS:
                wrong.append(f"{client.name}: {count} answers in phase {phase}")
    return wrong


def _failures(measurements: Measurements) -> list[str]:
    """Requests of the measured clients that failed, by kind, most frequent first."""
    return [f"{times} × {failure}" for failure, times in measurements.failures.most_common()]


def _memory(evidence: Evidence) -> list[str]:
    """Memory beyond the bounds, of the sidecar and of Redis."""
    wrong = []
    if evidence.peak_bytes > LARGER * evidence.idle_bytes:
        idle, peak = evidence.idle_bytes / MIB, evidence.peak_bytes / MIB
        wrong.append(f"resident memory grew from {idle:.0f} to {peak:.0f} MiB")
    if evidence.redis_growth > REDIS_BUDGET:
        grown = evidence.redis_growth / MIB
        wrong.append(f"Redis grew by {grown:.1f} MiB (bound: {REDIS_BUDGET / MIB:.0f} MiB)")
    return wrong


def _slow(measurements: Measurements, client: Client) -> list[str]:
    """A p99 that the attack raised too much."""
    calm, attack = p99s(measurements, client)
    if max(attack, LEAST_MS) <= SLOWER * max(calm, LEAST_MS):
        return []
    return [f"{client.name}: p99 {attack:.1f} ms, {calm:.1f} ms without the attack"]
