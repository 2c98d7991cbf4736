"""The verdict on deferred jobs: each combination of delivery, state and runs."""

import pytest

from loadtests.scenarios.job_verdict import Job, judge
from loadtests.scenarios.report import Report

DONE = {"state": "done", "reason": "ok"}
LOST = {"state": "failed", "reason": "lost"}
REFUSED = {"state": "failed", "reason": "suspended"}
LEAST, MOST = "at-least-once", "at-most-once"
NOTHING = "no kill interrupted a job: the run proves nothing"


def a_job(delivery: str, status: dict[str, str], runs: int) -> Job:
    return Job("key", "/exports/1", delivery, "/-/jobs/1", status, runs)


def broken(*jobs: Job) -> set[str]:
    report = Report()
    judge(report, jobs)
    return set(report.verdict.broken)


@pytest.mark.parametrize(
    ("delivery", "status", "runs", "sentences"),
    [
        (LEAST, DONE, 2, set()),
        (LEAST, DONE, 1, {NOTHING}),
        (LEAST, DONE, 0, {"a job at-least-once is done, but the API never received it", NOTHING}),
        (LEAST, LOST, 1, {"a job at-least-once is failed, lost"}),
        (LEAST, REFUSED, 2, {"a job at-least-once is failed, suspended"}),
        (LEAST, {}, 2, {"a job at-least-once is waiting, None"}),
        (MOST, DONE, 1, {NOTHING}),
        (MOST, DONE, 2, {"a job at-most-once ran twice"}),
        (MOST, LOST, 1, set()),
        (MOST, LOST, 0, set()),
        (MOST, LOST, 2, {"a job at-most-once ran twice"}),
        (MOST, REFUSED, 0, {"a job at-most-once is failed, suspended", NOTHING}),
        (MOST, {"state": "running"}, 1, {"a job at-most-once is running, None", NOTHING}),
    ],
)
def test_violations_by_delivery_state_and_runs(
    delivery: str, status: dict[str, str], runs: int, sentences: set[str]
) -> None:
    assert broken(a_job(delivery, status, runs)) == sentences


def test_one_interrupted_job_is_enough_to_prove_something() -> None:
    assert broken(a_job(LEAST, DONE, 1), a_job(MOST, LOST, 1)) == set()
