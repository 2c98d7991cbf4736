"""Ten seconds' worth of calls at once, with `max_wait`: all are served, in order, none refused,
and the API never sees more than the limit lets through."""

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
# What a delay between Redis's word and the API's ears may do: it makes calls come together.
SLACK_S: Final = 0.25 if ASSIGNMENT.timing else 5.0
SERVED: Final = (200,)
UNHELD_S: Final = 1.0  # who got an answer later than that was held, and is told so

ALL: Final[list["Customer"]] = []
BEGIN: Final = Event()
HEADS: Final = Event()


class Customer(User):
    """Sends everything at once, each call on a connection of its own."""

    abstract = True
    key: ClassVar[str]
    name: ClassVar[str]

    def on_start(self) -> None:
        """Learn what the plan allows this key."""
        [rate] = bounds_of_key(ASSIGNMENT.document(), self.key)
        assert isinstance(rate, Rate)
        self.rate = rate
        self.calls: list[RawRequest] = []
        self.done = Event()
        ALL.append(self)

    @task
    def burst(self) -> None:
        """Once."""
        BEGIN.wait()
        count = int(self.rate.per_second * TIMES_THE_RATE)
        answers = []
        for number in range(count):
            self.calls.append(RawRequest(self.key, f"/{self.name}/{number}"))
            answers.append(gevent.spawn(self.calls[-1].finish))
        gevent.joinall(answers)
        self.done.set()
        Event().wait()


class One(Customer):
    key, name, fixed_count = "burst-one-key", "one", 1


class Two(Customer):
    key, name, fixed_count = "burst-two-key", "two", 1


def arrivals_of(name: str) -> dict[int, float]:
    """When the API got each call of a customer, by number."""
    seen: dict[int, float] = {}
    for at, path in fetch_api("/_seen")["calls"]:
        _, who, number = path.split("/")
        if who == name:
            seen[int(number)] = at
    return seen


def judge(report: Report, customer: Customer) -> None:
    """What one customer got, and what the API saw of it."""
    calls, name, rate = customer.calls, customer.name, customer.rate
    for call in calls:
        report.check(call.status in SERVED, f"a call of {name} was answered {call.status}")
        held = "x-queued-ms" in call.fields
        told = held or call.seconds < UNHELD_S
        report.check_time(told, f"a call of {name} was held and not told so")
    arrivals = arrivals_of(name)
    report.check(
        set(arrivals) == set(range(len(calls))), f"not all calls of {name} reached the API"
    )
    late = overtaken(arrivals, SLACK_S)
    report.check(not late, f"{len(late)} calls of {name} were overtaken")
    over = round(over_rate(sorted(arrivals.values()), rate), 1) + 0.0  # never -0.0
    most = float(rate.per_second * Fraction(SLACK_S))
    report.check(over <= most, f"the API got {over:.1f} calls of {name} more than the limit allows")
    held_calls = sum("x-queued-ms" in call.fields for call in calls)
    report.check(held_calls > 0, f"no call of {name} was held: the run proves nothing")
    longest = max(call.seconds for call in calls)
    report.record(
        f"{name} ({rate.per_second}/s)",
        f"{len(calls)} calls, {held_calls} held, {len(late)} overtaken, "
        f"longest wait {longest:.1f} s, {over:+.1f} calls over the limit",
    )


def story(report: Report) -> None:
    """All customers at once."""
    BEGIN.set()
    for customer in ALL:
        customer.done.wait()
    for customer in sorted(ALL, key=lambda one: one.name):
        judge(report, customer)


run_story(story)
