"""Requests for ten seconds at once, with `max_wait`.

All are served in order, none is refused, and the API never gets more than the limit allows.
"""

from fractions import Fraction
from typing import ClassVar, Final

import gevent
from gevent.event import Event
from locust import User, task

from loadtests.checks import Rate, bounds_of_key
from loadtests.scenarios.locust_run import ASSIGNMENT, run_story
from loadtests.scenarios.measures import over_rate, overtaken
from loadtests.scenarios.raw_request import RawRequest, fetch_api
from loadtests.scenarios.report import Report

TIMES_THE_RATE: Final = 10
# A delay between the reservation and the arrival at the API brings requests closer together.
SLACK_S: Final = 0.25 if ASSIGNMENT.timing else 5.0
SERVED: Final = (200,)
PROMPT_S: Final = 1.0  # a slower answer has waited, so it has X-Queued-Ms

ALL: Final[list["Customer"]] = []
START: Final = Event()
HEADS: Final = Event()


class Customer(User):
    """A customer that sends everything at once, each request on its own connection."""

    abstract = True
    key: ClassVar[str]
    name: ClassVar[str]

    def on_start(self) -> None:
        """Read the limit of this API key."""
        [rate] = bounds_of_key(ASSIGNMENT.document(), self.key)
        assert isinstance(rate, Rate)
        self.rate = rate
        self.requests: list[RawRequest] = []
        self.done = Event()
        ALL.append(self)

    @task
    def burst(self) -> None:
        """Send the burst, once."""
        START.wait()
        count = int(self.rate.per_second * TIMES_THE_RATE)
        answers = []
        for number in range(count):
            self.requests.append(RawRequest(self.key, f"/{self.name}/{number}"))
            answers.append(gevent.spawn(self.requests[-1].finish))
        gevent.joinall(answers)
        self.done.set()
        Event().wait()


class One(Customer):
    key, name, fixed_count = "burst-one-key", "one", 1


class Two(Customer):
    key, name, fixed_count = "burst-two-key", "two", 1


def arrivals_of(name: str) -> dict[int, float]:
    """The arrivals at the API of a customer's requests, by number."""
    arrivals: dict[int, float] = {}
    for at, path in fetch_api("/_seen")["requests"]:
        _, customer, number = path.split("/")
        if customer == name:
            arrivals[int(number)] = at
    return arrivals


def judge(report: Report, customer: Customer) -> None:
    """Check what one customer got, and what the API got of it."""
    requests, name, rate = customer.requests, customer.name, customer.rate
    for request in requests:
        report.check(request.status in SERVED, f"a request of {name} was answered {request.status}")
        queued = "x-queued-ms" in request.fields
        explained = queued or request.seconds < PROMPT_S
        report.check_time(explained, f"a request of {name} waited and has no X-Queued-Ms")
    arrivals = arrivals_of(name)
    report.check(
        set(arrivals) == set(range(len(requests))), f"not all requests of {name} reached the API"
    )
    late = overtaken(arrivals, SLACK_S)
    report.check(not late, f"{len(late)} requests of {name} were overtaken")
    over = round(over_rate(sorted(arrivals.values()), rate), 1) + 0.0  # never -0.0
    most = float(rate.per_second * Fraction(SLACK_S))
    report.check(
        over <= most, f"the API got {over:.1f} requests of {name} more than the limit allows"
    )
    queued_count = sum("x-queued-ms" in request.fields for request in requests)
    report.check(queued_count > 0, f"no request of {name} waited: the run proves nothing")
    longest = max(request.seconds for request in requests)
    report.record(
        f"{name} ({rate.per_second}/s)",
        f"{len(requests)} requests, {queued_count} waited, {len(late)} overtaken, "
        f"longest wait {longest:.1f} s, {over:+.1f} requests over the limit",
    )


def story(report: Report) -> None:
    """Start all customers at once, and judge each."""
    START.set()
    for customer in ALL:
        customer.done.wait()
    for customer in sorted(ALL, key=lambda one: one.name):
        judge(report, customer)


run_story(story)
