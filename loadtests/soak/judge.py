"""The checks of a soak on all evidence, and the printed verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.soak import verdict
from loadtests.soak.accounts import MOST_UNITS, document, open_plans, quotas_of
from loadtests.soak.environment import PREFIX, Sample, SoakEnvironment
from loadtests.soak.observations import End, Observations
from loadtests.soak.reconciliation import Event, counters_in, events_in, sums
from sidecar.metering.verify import verify

WANTED: Final = (*End, "tunnels", "disconnected", "disconnected in an answer")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed of the sidecar.

    `closed_connections`: how often the faults closed its Redis connections.
    """

    seconds: int
    rss: Sequence[int]
    before: Sample
    after: Sample
    code: int
    closed_connections: int
    faults: Sequence[str]


def judge(environment: SoakEnvironment, observations: Observations, evidence: Evidence) -> int:
    """Print each check and its violations. Returns 0 if all hold, else 1."""
    checks = {
        "memory": verdict.grown(evidence.rss, evidence.seconds),
        "at rest": verdict.left_over(evidence.before, evidence.after),
        "clients": verdict.forbidden(observations.violations),
        "events": _events(
            environment, observations, int(evidence.after.counts["sidecar_spool_events_total"])
        ),
        "counters": _counters(environment, observations, evidence.closed_connections),
        "reconcile": _reconciled(environment, evidence.closed_connections),
        "log": verdict.bad_log_lines(environment.sidecar.log.read_text().splitlines()),
        "exit": [] if evidence.code == 0 else [f"the sidecar ended with {evidence.code}"],
        "run": verdict.never_counted(observations.counts, (*WANTED, *evidence.faults)),
    }
    early, late = (size / verdict.MIB for size in verdict.fifths(evidence.rss))
    print(f"Memory: {early:.1f} MiB in the second fifth of the run, {late:.1f} in the last")
    for name, wrong in checks.items():
        print(f"{name:9}", "BROKEN" if wrong else "ok")
        for sentence in wrong:
            print("   ", sentence)
    broken = [name for name, wrong in checks.items() if wrong]
    print(f"Broken: {', '.join(broken)}." if broken else "Every check holds.")
    return 1 if broken else 0


def _events(environment: SoakEnvironment, observations: Observations, appended: int) -> list[str]:
    report = verify(environment.spool)
    broken = [str(problem) for problem in (*report.gaps, *report.breaks)]
    whole = verdict.broken_events(events_in(environment.shipped), appended)
    resets = observations.counts["reset"]
    return (
        broken
        + whole
        + verdict.misrecorded(observations.results, resets, events_in(environment.shipped))
    )


def _reconciled(environment: SoakEnvironment, closed_connections: int) -> list[str]:
    """Differences that `sidecar reconcile` reports."""
    # A connection that breaks may leave requests charged without an event.
    reconnected = environment.redis_connections() > closed_connections
    reconcile = environment.reconcile()
    if reconcile.returncode == 0 or (reconcile.returncode == 1 and reconnected):
        return []
    return [*reconcile.stdout.splitlines(), *reconcile.stderr.splitlines()]


def _counters(
    environment: SoakEnvironment, observations: Observations, closed_connections: int
) -> list[str]:
    plans = document()
    allowed_plans = open_plans(plans)

    def is_doubtful(event: Event) -> bool:
        """Whether the request may have been allowed without Redis, so without a charge."""
        if event.request_class != "critical" and event.plan not in allowed_plans:
            return False
        result = observations.results.get(event.id)
        return result is None or not result.has_limits

    counters = counters_in(environment.admin, PREFIX, quotas_of(plans))
    usage = sums(events_in(environment.shipped), counters, is_doubtful)
    lost = {}
    if environment.redis_connections() > closed_connections:
        print("The sidecar closed Redis connections by itself. Requests without an answer then")
        print("may have been charged without an event, so counters may be that much higher.")
        lost = {
            name: requests * MOST_UNITS for name, requests in observations.without_answer.items()
        }
    return verdict.miscounted(counters, usage, lost)
