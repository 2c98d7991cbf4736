"""Ten accounts at an API that cannot serve all they send, one of them sending fifty times as much
as each of the others: the nine are answered as fast as when it is silent."""

import random
from collections import Counter
from itertools import count
from typing import Final

import gevent
from locust import FastHttpUser, constant_throughput, task

from loadtests.scenarios.locusting import GIVEN, tell
from loadtests.scenarios.report import Report
from loadtests.scenarios.rounds import Rounds

QUIET: Final = 9
QUIET_RATE: Final = 4.0  # calls a second of each
TIMES: Final = 50
PROGRAMS: Final = 400  # of the flood: so many that those which wait are not missed
MOST: Final = 1.5  # times the calm p99
AT_LEAST: Final = 0.9  # of what is meant to be sent: else the run proves nothing

TURNS: Final = Rounds()
NUMBERS: Final = count(1)
QUIET_ENDS: Final[Counter[int]] = Counter()  # calls by status
FLOOD_ENDS: Final[Counter[int]] = Counter()
FLYING: Final = [0]  # calls of the flood that have no answer yet


class Quiet(FastHttpUser):
    """An account of its own."""

    fixed_count = QUIET
    wait_time = constant_throughput(QUIET_RATE)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        """Each has a key."""
        self.key = f"fair-{next(NUMBERS)}-key"
        gevent.sleep(random.uniform(0, 1 / QUIET_RATE))

    @task
    def ask(self) -> None:
        """The everyday call."""
        answer = TURNS.timed(lambda: self.client.get("/quiet", headers={"X-Api-Key": self.key}))
        QUIET_ENDS[answer.status_code] += 1


class Flood(FastHttpUser):
    """One of many programs of one account."""

    fixed_count = PROGRAMS
    pause = PROGRAMS / (QUIET_RATE * TIMES)
    wait_time = constant_throughput(1 / pause)  # type: ignore[no-untyped-call]

    @task
    def ask(self) -> None:
        """As the quiet ones, but often."""
        TURNS.wait_for_load(self.pause)
        FLYING[0] += 1
        headers = {"X-Api-Key": "fair-0-key"}
        with self.client.get("/flood", headers=headers, catch_response=True) as answer:
            FLYING[0] -= 1
            FLOOD_ENDS[answer.status_code] += 1
            if answer.status_code == 503:
                answer.success()  # it floods the API and waits for itself


def story(report: Report) -> None:
    """The flood comes and goes."""
    TURNS.play(GIVEN.seconds, at_rest=lambda: not FLYING[0])
    for status, number in QUIET_ENDS.items():
        report.holds(status == 200, f"{number} calls of the quiet were answered {status}")
    for status, number in FLOOD_ENDS.items():
        report.holds(status in (200, 503), f"{number} calls of the flood were answered {status}")
    sent = FLOOD_ENDS.total() / TURNS.seconds
    wanted = QUIET_RATE * TIMES
    report.in_time(sent >= wanted * AT_LEAST, f"the flood sent {sent:.0f}/s and not {wanted:.0f}")
    TURNS.judge(report, "the quiet", MOST)
    report.tell("quiet", f"{QUIET_ENDS[200]:,} of {QUIET_ENDS.total():,} calls served")
    report.tell("flood", f"{sent:.0f} calls/s, {FLOOD_ENDS[200]:,} served, "
                f"{FLOOD_ENDS[503]:,} refused for want of a connection")  # fmt: skip


tell(story)
