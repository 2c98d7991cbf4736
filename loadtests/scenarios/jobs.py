"""Sidecars are killed while deferred jobs run: no job is lost under at-least-once, and none runs
twice under at-most-once."""

import json
import urllib.request
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import gevent
from gevent.event import Event
from locust import User, constant_throughput, task

from loadtests.scenarios.calls import RawCall, ask_api
from loadtests.scenarios.locusting import GIVEN, tell, wait_for
from loadtests.scenarios.report import Report

DELIVERIES: Final = ("at-least-once", "at-most-once")  # of the sidecars, in their order
RATE: Final = 10.0  # calls a second of each program; the limit lets two of them have 5 together
PART: Final = 1 / 4  # of the time in which calls are made; in the rest what they left is run
OPEN: Final = ("waiting", "running")
END_S: Final = 60.0  # for what is left once no more is asked
ASK_S: Final = 5.0


@dataclass
class Job:
    """A call that was answered 202. `told`: what the sidecars say of it."""

    key: str
    path: str
    delivery: str
    href: str
    told: dict[str, Any]


JOBS: Final[list[Job]] = []
ENDS: Final[Counter[int]] = Counter()  # calls by status; 0: no answer, so perhaps a job
PROGRAMS: Final = count()
CALLS: Final = count()
ENOUGH: Final = Event()
CALLING: Final[set[gevent.Greenlet]] = set()


class Program(User):
    """Asks one of the sidecars for exports, whether or not it is there at the moment."""

    fixed_count = 8
    wait_time = constant_throughput(RATE)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        """Two programs for each account, one for each sidecar."""
        number = next(PROGRAMS)
        self.sidecar = number % len(DELIVERIES)
        self.key = f"job-{number // len(DELIVERIES)}-key"

    @task
    def ask(self) -> None:
        """Does not wait for the answer."""
        if ENOUGH.is_set():
            Event().wait()
        call = gevent.spawn(self._ask, f"/exports/{next(CALLS)}")
        CALLING.add(call)
        call.link(CALLING.discard)

    def _ask(self, path: str) -> None:
        try:
            call = RawCall(self.key, path, method="POST", sidecar=self.sidecar).finish()
        except OSError:
            return  # nobody is there: nothing was asked
        ENDS[call.status] += 1
        if call.status == 202:
            delivery = DELIVERIES[self.sidecar]
            JOBS.append(Job(self.key, path, delivery, call.fields["location"], {}))


def look(job: Job) -> None:
    """Ask the first sidecar that is there how a job stands."""
    for address in GIVEN.sidecars:
        request = urllib.request.Request(address + job.href, headers={"X-Api-Key": job.key})  # noqa: S310 - ours
        try:
            with urllib.request.urlopen(request, timeout=ASK_S) as answer:  # noqa: S310 - ours
                job.told = json.loads(answer.read())
                return
        except (OSError, ValueError):
            continue  # it was killed just now


def all_have_ended() -> bool:
    """Whether no job is open any more, as far as can be told now."""
    for job in JOBS:
        if job.told.get("state", OPEN[0]) in OPEN:
            look(job)
    return all(job.told.get("state", OPEN[0]) not in OPEN for job in JOBS)


def judge_one(report: Report, job: Job, runs: int) -> None:
    """What became of a job, and how often the API has seen it."""
    state, reason = job.told.get("state"), job.told.get("reason")
    if state == "done":
        report.holds(runs > 0, f"a job {job.delivery} is done that the API never saw")
    elif job.delivery == "at-least-once" or (state, reason) != ("failed", "lost"):
        report.holds(False, f"a job {job.delivery} is {state}, {reason}")
    if job.delivery == "at-most-once":
        report.holds(runs <= 1, "a job ran twice that may run only once")


def story(report: Report) -> None:
    """More calls than fit; then what they left, while sidecars are killed all along."""
    gevent.sleep(GIVEN.seconds * PART)
    ENOUGH.set()
    gevent.joinall(list(CALLING))
    wait_for(all_have_ended, GIVEN.seconds + END_S)
    runs = Counter(path for _, path in ask_api("/_seen")["calls"])
    for job in JOBS:
        judge_one(report, job, runs[job.path])
    again = sum(runs[job.path] > 1 for job in JOBS)
    lost = sum(job.told.get("reason") == "lost" for job in JOBS)
    report.holds(again + lost > 0, "no job ran when its sidecar was killed: this proves nothing")
    for status, number in ENDS.items():
        report.holds(status in (0, 200, 202), f"{number} calls were answered {status}")
    report.tell("calls", f"{ENDS[200]} answered at once, {ENDS[202]} deferred, "
                f"{ENDS[0]} cut off with their sidecar")  # fmt: skip
    for delivery in DELIVERIES:
        mine = [job for job in JOBS if job.delivery == delivery]
        done = sum(job.told.get("state") == "done" for job in mine)
        report.tell(f"jobs {delivery}", f"{done} of {len(mine)} done")
    report.tell("interrupted", f"{again} ran again, {lost} were given up as lost")


tell(story)
