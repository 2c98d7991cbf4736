"""The verdict on deferred jobs whose sidecars were killed: pure functions of what was observed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.scenarios.report import Report

DELIVERIES: Final = ("at-least-once", "at-most-once")


@dataclass
class Job:
    """A request that was answered 202.

    `status`: the job's document as a sidecar last returned it. `runs`: how often the API got the
    request.
    """

    key: str
    path: str
    delivery: str
    href: str
    status: dict[str, Any] = field(default_factory=dict)
    runs: int = 0

    @property
    def state(self) -> str:
        """The state in the document; "waiting" before the first answer."""
        return str(self.status.get("state", "waiting"))

    @property
    def is_open(self) -> bool:
        """Whether the job waits or runs."""
        return self.state in ("waiting", "running")

    @property
    def is_lost(self) -> bool:
        """Whether the job was given up after its sidecar died."""
        return (self.state, self.status.get("reason")) == ("failed", "lost")


def judge(report: Report, jobs: Sequence[Job]) -> None:
    """Check that each job at-least-once is done and no job at-most-once ran twice.

    A run in which no kill interrupted a job proves nothing. On a busy machine that may happen.
    """
    for job in jobs:
        _judge_one(report, job)
    interrupted = any(job.runs > 1 or job.is_lost for job in jobs)
    report.check_time(interrupted, "no kill interrupted a job: the run proves nothing")


def _judge_one(report: Report, job: Job) -> None:
    if job.state == "done":
        report.check(job.runs > 0, f"a job {job.delivery} is done, but the API never received it")
    elif job.delivery == "at-least-once" or not job.is_lost:
        report.check(False, f"a job {job.delivery} is {job.state}, {job.status.get('reason')}")
    if job.delivery == "at-most-once":
        report.check(job.runs <= 1, "a job at-most-once ran twice")
