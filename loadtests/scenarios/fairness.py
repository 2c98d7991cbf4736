"""Ten accounts at an API that cannot serve all they send.

One account sends fifty times as much as each of the others. The nine others are answered as fast as
when it is silent.
"""

import random
from collections import Counter
from itertools import count
from typing import Final

import gevent
from locust import FastHttpUser, constant_throughput, task

from loadtests.scenarios.locust_run import ASSIGNMENT, run_story
from loadtests.scenarios.phases import Phases
from loadtests.scenarios.report import Report

QUIET: Final = 9
QUIET_RATE: Final = 4.0  # requests per second of each
TIMES: Final = 50
PROGRAMS: Final = 400  # of the flood: enough to keep its rate while some wait
MOST: Final = 1.5  # times the calm p99
AT_LEAST: Final = 0.9  # of the intended rate: else the run proves nothing

PHASES: Final = Phases()
NUMBERS: Final = count(1)
QUIET_STATUSES: Final[Counter[int]] = Counter()  # requests by status
FLOOD_STATUSES: Final[Counter[int]] = Counter()
IN_FLIGHT: Final = [0]  # requests of the flood without an answer yet


class Quiet(FastHttpUser):
    """A program of an account of its own."""

    fixed_count = QUIET
    wait_time = constant_throughput(QUIET_RATE)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        """Take an API key, and start out of step with the others."""
        self.key = f"fair-{next(NUMBERS)}-key"
        gevent.sleep(random.uniform(0, 1 / QUIET_RATE))

    @task
    def send(self) -> None:
        """Send one request."""
        answer = PHASES.measure(lambda: self.client.get("/quiet", headers={"X-Api-Key": self.key}))
        QUIET_STATUSES[answer.status_code] += 1


class Flood(FastHttpUser):
    """One of many programs of the account that sends too much."""

    fixed_count = PROGRAMS
    pause = PROGRAMS / (QUIET_RATE * TIMES)
    wait_time = constant_throughput(1 / pause)  # type: ignore[no-untyped-call]

    @task
    def send(self) -> None:
        """Send one request while the load is on."""
        PHASES.wait_for_load(self.pause)
        IN_FLIGHT[0] += 1
        headers = {"X-Api-Key": "fair-0-key"}
        with self.client.get("/flood", headers=headers, catch_response=True) as answer:
            IN_FLIGHT[0] -= 1
            FLOOD_STATUSES[answer.status_code] += 1
            if answer.status_code == 503:
                answer.success()  # its own requests fill the wait queue


def story(report: Report) -> None:
    """Alternate between calm and flood, then judge both."""
    PHASES.run(ASSIGNMENT.seconds, at_rest=lambda: not IN_FLIGHT[0])
    for status, number in QUIET_STATUSES.items():
        report.check(
            status == 200, f"{number} requests of the quiet accounts were answered {status}"
        )
    for status, number in FLOOD_STATUSES.items():
        report.check(status in (200, 503), f"{number} requests of the flood were answered {status}")
    sent = FLOOD_STATUSES.total() / PHASES.seconds
    wanted = QUIET_RATE * TIMES
    report.check_time(sent >= wanted * AT_LEAST, f"the flood sent {sent:.0f}/s, not {wanted:.0f}/s")
    PHASES.judge(report, "the quiet accounts", MOST)
    report.record("quiet", f"{QUIET_STATUSES[200]:,} of {QUIET_STATUSES.total():,} requests served")
    report.record("flood", f"{sent:.0f} requests/s, {FLOOD_STATUSES[200]:,} served, "
                f"{FLOOD_STATUSES[503]:,} refused because no connection was free")  # fmt: skip


run_story(story)
