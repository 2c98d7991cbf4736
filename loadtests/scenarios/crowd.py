"""Ten thousand calls held at once: the sidecar stays small, and all are answered in time."""

from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.event import Event
from locust import User, task

from loadtests.checks import limits_of
from loadtests.scenarios.locust_run import ASSIGNMENT, run_story, wait_for
from loadtests.scenarios.raw_request import RawRequest, fetch_api, metric
from loadtests.scenarios.report import Report

ACCOUNTS: Final = 10
MOST_BYTES: Final = 150_000_000
SPARE_S: Final = 1.0  # beyond max_wait
GATHER_S: Final = 60.0  # for all of them to be there
ADMIT_S: Final = (
    2.0 if ASSIGNMENT.timing else 8.0
)  # for the sidecar to have taken them all; below max_wait

LIMIT: Final[Any] = limits_of(ASSIGNMENT.document()["plans"], "slots")["in-flight"]
MAX_WAIT_S: Final = int(LIMIT["max_wait"].rstrip("s"))
EACH: Final = ASSIGNMENT.calls // ACCOUNTS

NUMBERS: Final = count()
CALLS: Final[list[RawRequest]] = []
SLOTS_TAKEN: Final = Event()
ASKED: Final[list[str]] = []  # accounts that have sent everything
DONE: Final[list[str]] = []  # accounts that have got everything


class Account(User):
    """Takes its own slots, then sends a thousand calls more, each on its own connection."""

    fixed_count = ACCOUNTS

    @task
    def crowd(self) -> None:
        """Once."""
        key = f"crowd-{next(NUMBERS)}-key"
        holders = [RawRequest(key, "/held") for _ in range(LIMIT["concurrency"])]
        SLOTS_TAKEN.wait()
        calls = [RawRequest(key, "/x") for _ in range(EACH)]
        ASKED.append(key)
        CALLS.extend(calls)
        waiting = [gevent.spawn(call.finish) for call in (*holders, *calls)]
        gevent.joinall(waiting)
        DONE.append(key)
        Event().wait()


def rss() -> int:
    """Resident bytes of the sidecar. Raises OSError when it is gone."""
    for line in Path(f"/proc/{ASSIGNMENT.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS")


def judge(report: Report) -> None:
    """How the calls ended, and when."""
    ends = Counter(call.status for call in CALLS)
    for status, number in ends.items():
        report.check(status in (200, 429), f"{number} calls were answered {status}")
    report.check(ends[200] > 0, "no call was served: the run proves nothing")
    slowest = max(call.seconds for call in CALLS)
    limit = MAX_WAIT_S + SPARE_S
    late = sum(call.seconds > limit for call in CALLS)
    report.check_time(not late, f"{late} calls had no answer after {limit:g} s")
    report.record("served", f"{ends[200]:,} of {len(CALLS):,}, {ends[429]:,} refused in the end")
    report.record("slowest", f"{slowest:.1f} s of {limit:g} s at most")


def story(report: Report) -> None:
    """All slots are taken; the crowd gathers; the slots are freed."""
    before = rss()
    wanted = ACCOUNTS * LIMIT["concurrency"]
    held = wait_for(lambda: len(fetch_api("/_seen")["calls"]) >= wanted, GATHER_S)
    report.check(held, "the slots were not taken: the run proves nothing")
    SLOTS_TAKEN.set()
    wait_for(lambda: len(ASKED) == ACCOUNTS, GATHER_S)
    total = EACH * ACCOUNTS
    wait_for(lambda: metric("sidecar_waiting_requests") >= total, ADMIT_S)
    at_once, size = int(metric("sidecar_waiting_requests")), rss()
    fetch_api("/_release")
    wait_for(lambda: len(DONE) == ACCOUNTS, MAX_WAIT_S + GATHER_S)
    size = max(size, rss())
    report.check(at_once == total, f"{at_once:,} calls waited at once and not {total:,}")
    report.check(size < MOST_BYTES, f"the sidecar grew to {size / 1e6:.0f} MB")
    report.record("waiting at once", f"{at_once:,}")
    report.record("memory", f"{size / 1e6:.0f} MB ({before / 1e6:.0f} MB before)")
    judge(report)


run_story(story)
