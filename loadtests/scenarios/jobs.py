"""Sidecars are killed while deferred jobs run.

Under at-least-once no job is lost; under at-most-once none runs twice.
"""

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

RATE: Final = 10.0  # requests per second of each program; the limit allows two of them 5/s
PART: Final = 1 / 4  # of the time with new requests; the rest is for the jobs
END_S: Final = 60.0  # for open jobs after the last request
STATUS_TIMEOUT_S: Final = 5.0


JOBS: Final[list[Job]] = []
STATUSES: Final[Counter[int]] = Counter()  # requests by status; 0: no answer, so perhaps a job
PROGRAMS: Final = count()
NUMBERS: Final = count()
STOPPED: Final = Event()
IN_FLIGHT: Final[set[gevent.Greenlet]] = set()


class Program(User):
    """A program that sends exports to one sidecar, even while it is down."""

    fixed_count = 8
    wait_time = constant_throughput(RATE)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        """Choose the account and the sidecar: each account has one program per sidecar."""
        number = next(PROGRAMS)
        self.sidecar = number % len(DELIVERIES)
        self.key = f"job-{number // len(DELIVERIES)}-key"

    @task
    def send(self) -> None:
        """Start a request without waiting for the answer."""
        if STOPPED.is_set():
            Event().wait()
        request = gevent.spawn(self._send, f"/exports/{next(NUMBERS)}")
        IN_FLIGHT.add(request)
        request.link(IN_FLIGHT.discard)

    def _send(self, path: str) -> None:
        try:
            request = RawRequest(self.key, path, method="POST", sidecar=self.sidecar).finish()
        except OSError:
            return  # the sidecar is down: nothing was sent
        STATUSES[request.status] += 1
        if request.status == 202:
            delivery = DELIVERIES[self.sidecar]
            JOBS.append(Job(self.key, path, delivery, request.fields["location"]))


def update(job: Job) -> None:
    """Get a job's document from the first sidecar that answers."""
    for address in ASSIGNMENT.sidecars:
        query = urllib.request.Request(address + job.href, headers={"X-Api-Key": job.key})  # noqa: S310 - a local server
        try:
            with urllib.request.urlopen(query, timeout=STATUS_TIMEOUT_S) as answer:  # noqa: S310 - a local server
                job.status = json.loads(answer.read())
                return
        except (OSError, ValueError):
            continue  # it was killed just now


def all_have_ended() -> bool:
    """Whether no job is open any more, after an update of the open ones."""
    for job in JOBS:
        if job.is_open:
            update(job)
    return not any(job.is_open for job in JOBS)


def story(report: Report) -> None:
    """Send more requests than the limits allow, then wait for the jobs."""
    gevent.sleep(ASSIGNMENT.seconds * PART)
    STOPPED.set()
    gevent.joinall(list(IN_FLIGHT))
    wait_for(all_have_ended, ASSIGNMENT.seconds + END_S)
    runs = Counter(path for _, path in fetch_api("/_seen")["requests"])
    for job in JOBS:
        job.runs = runs[job.path]
    judge(report, JOBS)
    for status, number in STATUSES.items():
        report.check(status in (0, 200, 202), f"{number} requests were answered {status}")
    report.record("requests", f"{STATUSES[200]} answered immediately, {STATUSES[202]} deferred, "
                f"{STATUSES[0]} cut off with their sidecar")  # fmt: skip
    for delivery in DELIVERIES:
        jobs = [job for job in JOBS if job.delivery == delivery]
        done = sum(job.state == "done" for job in jobs)
        report.record(f"jobs {delivery}", f"{done} of {len(jobs)} done")
    again = sum(job.runs > 1 for job in JOBS)
    lost = sum(job.is_lost for job in JOBS)
    report.record("interrupted", f"{again} ran again, {lost} were given up as lost")


run_story(story)
