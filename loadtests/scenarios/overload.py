"""A customer whose quota is used up, at an API with twice the load that it can answer.

Each critical request succeeds, about as fast as without other load.
"""

import random
from collections import Counter
from typing import Final

import gevent
from locust import FastHttpUser, constant_throughput, task

from loadtests.scenarios.locust_run import ASSIGNMENT, run_story
from loadtests.scenarios.phases import Phases
from loadtests.scenarios.raw_request import fetch_api
from loadtests.scenarios.report import Report

CRITICAL: Final = 10
CRITICAL_RATE: Final = 4.0  # requests per second of each
QUOTA: Final = 5  # of the plan
PROGRAMS: Final = 200  # of the flood: enough to keep its rate while some wait
TIMES: Final = 2  # the API's capacity, by the flood alone
MOST: Final = 1.5  # times the calm p99
AT_LEAST: Final = 0.9  # of the intended rate: else the run proves nothing
USED_UP: Final = {"X-Api-Key": "overload-used-up-key"}
FLOOD: Final = {"X-Api-Key": "overload-flood-key"}

PHASES: Final = Phases()
CRITICAL_STATUSES: Final[Counter[int]] = Counter()  # requests by status
USED_UP_STATUSES: Final[Counter[int]] = Counter()
FLOOD_STATUSES: Final[Counter[int]] = Counter()
IN_FLIGHT: Final = [0]  # requests of the flood without an answer yet


class Critical(FastHttpUser):
    """A program of the customer whose quota is used up."""

    fixed_count = CRITICAL
    wait_time = constant_throughput(CRITICAL_RATE)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        """Use up the quota, and start out of step with the others."""
        for _ in range(QUOTA):
            with self.client.get("/items", headers=USED_UP, catch_response=True) as answer:
                answer.success()
        gevent.sleep(random.uniform(0, 1 / CRITICAL_RATE))

    @task(9)
    def login(self) -> None:
        """Send a critical request, which is counted and never refused."""
        answer = PHASES.measure(lambda: self.client.post("/login", headers=USED_UP))
        CRITICAL_STATUSES[answer.status_code] += 1

    @task(1)
    def item(self) -> None:
        """Send a request that the quota refuses."""
        with self.client.get("/items", headers=USED_UP, catch_response=True) as answer:
            USED_UP_STATUSES[answer.status_code] += 1
            if answer.status_code in (429, 503):
                answer.success()


class Flood(FastHttpUser):
    """One of many programs that together send too much for the API."""

    fixed_count = PROGRAMS
    pause = PROGRAMS / (ASSIGNMENT.capacity * TIMES)
    wait_time = constant_throughput(1 / pause)  # type: ignore[no-untyped-call]

    def _send(self, method: str, path: str) -> None:
        PHASES.wait_for_load(self.pause)
        IN_FLIGHT[0] += 1
        with self.client.request(method, path, headers=FLOOD, catch_response=True) as answer:
            IN_FLIGHT[0] -= 1
            FLOOD_STATUSES[answer.status_code] += 1
            if answer.status_code == 503:
                answer.success()

    @task(3)
    def item(self) -> None:
        """Send a standard request."""
        self._send("GET", "/items")

    @task(1)
    def export(self) -> None:
        """Send a deferrable request, which is shed first."""
        self._send("POST", "/exports")


def judge(report: Report) -> None:
    """Check how the requests ended."""
    for status, number in CRITICAL_STATUSES.items():
        report.check(status == 200, f"{number} critical requests were answered {status}")
    for status, number in USED_UP_STATUSES.items():  # 503: shed, before the quota is checked
        wrong = f"{number} requests over the quota were answered {status}"
        report.check(status in (429, 503), wrong)
    for status, number in FLOOD_STATUSES.items():
        report.check(status in (200, 503), f"{number} requests of the flood were answered {status}")
    report.check(CRITICAL_STATUSES[200] > 0, "no critical request: the run proves nothing")
    report.record(
        "critical", f"{CRITICAL_STATUSES[200]:,} of {CRITICAL_STATUSES.total():,} requests served"
    )


def judge_times(report: Report) -> None:
    """Check how fast critical requests were, and how much load the API had."""
    sent = FLOOD_STATUSES.total() / PHASES.seconds
    wanted = ASSIGNMENT.capacity * TIMES
    report.check_time(sent >= wanted * AT_LEAST, f"the flood sent {sent:.0f}/s, not {wanted:.0f}/s")
    PHASES.judge(report, "critical requests", MOST)
    report.record("others", f"{sent:.0f} requests/s, the API can answer "
                f"{ASSIGNMENT.capacity:.0f}/s; "
                f"{FLOOD_STATUSES[200]:,} served, {FLOOD_STATUSES[503]:,} shed, "
                f"{fetch_api('/_seen')['turned_away']:,} refused by the API")  # fmt: skip


def story(report: Report) -> None:
    """Alternate between calm and flood, then judge both."""
    PHASES.run(ASSIGNMENT.seconds, at_rest=lambda: not IN_FLIGHT[0])
    judge(report)
    judge_times(report)


run_story(story)
