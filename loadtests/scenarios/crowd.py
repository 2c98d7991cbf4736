"""Ten thousand requests wait at once: memory stays small, and all are answered in time."""

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
GATHER_S: Final = 60.0  # for all requests to arrive
# For the sidecar to queue them all; below max_wait.
ADMIT_S: Final = 2.0 if ASSIGNMENT.timing else 8.0

LIMIT: Final[Any] = limits_of(ASSIGNMENT.document()["plans"], "slots")["in-flight"]
MAX_WAIT_S: Final = int(LIMIT["max_wait"].rstrip("s"))
EACH: Final = ASSIGNMENT.calls // ACCOUNTS

NUMBERS: Final = count()
REQUESTS: Final[list[RawRequest]] = []
SLOTS_TAKEN: Final = Event()
SENT: Final[list[str]] = []  # accounts that have sent everything
DONE: Final[list[str]] = []  # accounts that have every answer


class Account(User):
    """An account that fills its slots, then sends 1,000 requests, each on its own connection."""

    fixed_count = ACCOUNTS

    @task
    def crowd(self) -> None:
        """Send everything, once."""
        key = f"crowd-{next(NUMBERS)}-key"
        holders = [RawRequest(key, "/held") for _ in range(LIMIT["concurrency"])]
        SLOTS_TAKEN.wait()
        requests = [RawRequest(key, "/x") for _ in range(EACH)]
        SENT.append(key)
        REQUESTS.extend(requests)
        waiting = [gevent.spawn(request.finish) for request in (*holders, *requests)]
        gevent.joinall(waiting)
        DONE.append(key)
        Event().wait()


def rss() -> int:
    """Resident memory of the sidecar, in bytes. Raises OSError if the process has ended."""
    for line in Path(f"/proc/{ASSIGNMENT.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS")


def judge(report: Report) -> None:
    """Check how the requests ended, and when."""
    statuses = Counter(request.status for request in REQUESTS)
    for status, number in statuses.items():
        report.check(status in (200, 429), f"{number} requests were answered {status}")
    report.check(statuses[200] > 0, "no request was served: the run proves nothing")
    slowest = max(request.seconds for request in REQUESTS)
    limit = MAX_WAIT_S + SPARE_S
    late = sum(request.seconds > limit for request in REQUESTS)
    report.check_time(not late, f"{late} requests had no answer after {limit:g} s")
    report.record(
        "served", f"{statuses[200]:,} of {len(REQUESTS):,}, {statuses[429]:,} refused in the end"
    )
    report.record("slowest", f"{slowest:.1f} s of at most {limit:g} s")


def story(report: Report) -> None:
    """Fill all slots, gather the crowd, and free the slots."""
    before = rss()
    wanted = ACCOUNTS * LIMIT["concurrency"]
    filled = wait_for(lambda: len(fetch_api("/_seen")["requests"]) >= wanted, GATHER_S)
    report.check(filled, "the slots were not filled: the run proves nothing")
    SLOTS_TAKEN.set()
    wait_for(lambda: len(SENT) == ACCOUNTS, GATHER_S)
    total = EACH * ACCOUNTS
    wait_for(lambda: metric("sidecar_waiting_requests") >= total, ADMIT_S)
    at_once, size = int(metric("sidecar_waiting_requests")), rss()
    fetch_api("/_release")
    wait_for(lambda: len(DONE) == ACCOUNTS, MAX_WAIT_S + GATHER_S)
    size = max(size, rss())
    report.check(at_once == total, f"{at_once:,} requests waited at once, not {total:,}")
    report.check(size < MOST_BYTES, f"the sidecar grew to {size / 1e6:.0f} MB")
    report.record("waiting at once", f"{at_once:,}")
    report.record("memory", f"{size / 1e6:.0f} MB ({before / 1e6:.0f} MB before)")
    judge(report)


run_story(story)
