"""Sidecars are killed while deferred jobs run: no job is lost under at-least-once, and none runs
twice under at-most-once."""

import json
import urllib.request
from collections import Counter
from itertools import count
from typing import Final

import gevent
from gevent.event import Event
from locust import User, constant_throughput, task

from loadtests.scenarios.job_verdict import DELIVERIES, Job, judge
from loadtests.scenarios.locust_run import ASSIGNMENT, run_story, wait_for
from loadtests.scenarios.raw_request import RawRequest, fetch_api
from loadtests.scenarios.report import Report

RATE: Final = 10.0  # calls a second of each program; the limit lets two of them have 5 together
PART: Final = 1 / 4  # of the time in which calls are made; in the rest what they left is run
END_S: Final = 60.0  # for what is left once no more is asked
ASK_S: Final = 5.0


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
            call = RawRequest(self.key, path, method="POST", sidecar=self.sidecar).finish()
        except OSError:
            return  # nobody is there: nothing was asked
        ENDS[call.status] += 1
        if call.status == 202:
            delivery = DELIVERIES[self.sidecar]
            JOBS.append(Job(self.key, path, delivery, call.fields["location"]))


def look(job: Job) -> None:
    """Ask the first sidecar that is there how a job stands."""
    for address in ASSIGNMENT.sidecars:
        request = urllib.request.Request(address + job.href, headers={"X-Api-Key": job.key})  # noqa: S310 - ours
        try:
            with urllib.request.urlopen(request, timeout=ASK_S) as answer:  # noqa: S310 - ours
                job.status = json.loads(answer.read())
                return
        except (OSError, ValueError):
            continue  # it was killed just now


def all_have_ended() -> bool:
    """Whether no job is open any more."""
    for job in JOBS:
        if job.is_open:
            look(job)
    return not any(job.is_open for job in JOBS)


def story(report: Report) -> None:
    """More calls than fit; then what they left, while sidecars are killed all along."""
    gevent.sleep(ASSIGNMENT.seconds * PART)
    ENOUGH.set()
    gevent.joinall(list(CALLING))
    wait_for(all_have_ended, ASSIGNMENT.seconds + END_S)
    runs = Counter(path for _, path in fetch_api("/_seen")["calls"])
    for job in JOBS:
        job.runs = runs[job.path]
    judge(report, JOBS)
    for status, number in ENDS.items():
        report.check(status in (0, 200, 202), f"{number} calls were answered {status}")
    report.record("calls", f"{ENDS[200]} answered at once, {ENDS[202]} deferred, "
                f"{ENDS[0]} cut off with their sidecar")  # fmt: skip
    for delivery in DELIVERIES:
        mine = [job for job in JOBS if job.delivery == delivery]
        done = sum(job.state == "done" for job in mine)
        report.record(f"jobs {delivery}", f"{done} of {len(mine)} done")
    again = sum(job.runs > 1 for job in JOBS)
    lost = sum(job.is_lost for job in JOBS)
    report.record("interrupted", f"{again} ran again, {lost} were given up as lost")


run_story(story)
