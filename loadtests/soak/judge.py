"""Gathers what a soak left behind, has each check judge it, and prints the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.soak import verdict
from loadtests.soak.accounts import MOST_UNITS, document, open_plans, quotas_of
from loadtests.soak.environment import PREFIX, Sample, SoakEnvironment
from loadtests.soak.observations import End, Observations
from loadtests.soak.reconciliation import Event, counters_in, events_in, sums
from sidecar.metering.verify import verify

WANTED: Final = (*End, "tunnels", "left", "left in an answer")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of the sidecar itself. `kills`: of its connections to the store."""

    seconds: int
    rss: Sequence[int]
    before: Sample
    after: Sample
    code: int
    kills: int
    faults: Sequence[str]


def judge(environment: SoakEnvironment, observations: Observations, seen: Evidence) -> int:
    """Print each check and what breaks it. 0 when all hold, else 1."""
    checks = {
        "memory": verdict.grown(seen.rss, seen.seconds),
        "at rest": verdict.left_over(seen.before, seen.after),
        "clients": verdict.forbidden(observations.violations),
        "events": _events(
            environment, observations, int(seen.after.counts["sidecar_spool_events_total"])
        ),
        "counters": _counters(environment, observations, seen.kills),
        "reconcile": _reconciled(environment, seen.kills),
        "log": verdict.said_wrong(environment.sidecar.log.read_text().splitlines()),
        "exit": [] if seen.code == 0 else [f"the sidecar ended with {seen.code}"],
        "run": verdict.unproved(observations.counts, (*WANTED, *seen.faults)),
    }
    early, late = (size / verdict.MIB for size in verdict.fifths(seen.rss))
    print(f"Memory: {early:.1f} MiB in the second fifth of the run, {late:.1f} in the last")
    for name, wrong in checks.items():
        print(f"{name:9}", "BROKEN" if wrong else "ok")
        for sentence in wrong:
            print("   ", sentence)
    broken = [name for name, wrong in checks.items() if wrong]
    print(f"Broken: {', '.join(broken)}." if broken else "Every check holds.")
    return 1 if broken else 0


def _events(environment: SoakEnvironment, observations: Observations, taken: int) -> list[str]:
    report = verify(environment.spool)
    broken = [str(problem) for problem in (*report.gaps, *report.breaks)]
    whole = verdict.not_whole(events_in(environment.shipped), taken)
    resets = observations.counts["reset"]
    return (
        broken
        + whole
        + verdict.misrecorded(observations.seen, resets, events_in(environment.shipped))
    )


def _reconciled(environment: SoakEnvironment, kills: int) -> list[str]:
    """What the product says itself of counters and events."""
    gave_up = environment.store_connections() > kills  # then calls may be charged without an event
    done = environment.reconcile()
    if done.returncode == 0 or (done.returncode == 1 and gave_up):
        return []
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def _counters(environment: SoakEnvironment, observations: Observations, kills: int) -> list[str]:
    plans = document()
    goes_on_blind = open_plans(plans)

    def is_doubtful(event: Event) -> bool:
        """Whether the call may have gone on without the store, and so may not be counted."""
        if event.request_class != "critical" and event.plan not in goes_on_blind:
            return False
        answer = observations.seen.get(event.id)
        return answer is None or not answer.told

    counters = counters_in(environment.admin, PREFIX, quotas_of(plans))
    found = sums(events_in(environment.shipped), counters, is_doubtful)
    lost = {}
    if environment.store_connections() > kills:
        print("The sidecar gave connections to the store up by itself: calls that had no answer")
        print("then may have been charged without an event, and the counters are judged so.")
        lost = {name: calls * MOST_UNITS for name, calls in observations.without_answer.items()}
    return verdict.miscounted(counters, found, lost)
