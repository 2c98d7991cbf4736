"""Short versions of the scenarios: each keeps its promises on the product, and says so when they
are broken. How long things take is not judged here: the machine may be busy."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from loadtests.scenarios.assignment import Options
from loadtests.scenarios.catalog import FIXED, Capacity, Scenario
from loadtests.scenarios.report import Report
from loadtests.scenarios.runner import run_scenario

# Importing Locust would patch this process for gevent: only look whether it is there.
pytestmark = [
    pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed"),
    pytest.mark.timeout(240),
]

SHORT = Options(seconds=4, calls=300, timing=False)


def with_plans(name: str, directory: Path, *changes: tuple[str, str]) -> Scenario:
    """A scenario whose plan file says something else."""
    text = FIXED[name].plans.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    plans = directory / f"{name}.yaml"
    plans.write_text(text)
    return replace(FIXED[name], plans=plans)


def kept(report: Report) -> None:
    assert report.verdict.lines() == []
    assert report.numbers
    assert report.code == 0


def broken(report: Report, *sentences: str) -> None:
    assert report.code == 1
    for sentence in sentences:
        assert any(sentence in line for line in report.verdict.lines()), report.verdict.lines()


def test_a_burst_is_held_and_served_in_order(tmp_path: Path) -> None:
    larger = ("burst: 20", "burst: 140"), ("burst: 5", "burst: 35")  # so that it takes 3 s, not 9
    kept(run_scenario(with_plans("burst", tmp_path, *larger), SHORT))


def test_a_burst_that_may_not_wait_is_a_broken_promise(tmp_path: Path) -> None:
    report = run_scenario(with_plans("burst", tmp_path, (", max_wait: 20s", "")), SHORT)
    broken(report, "a call of one was answered 429", "no call of two was held")


def test_a_crowd_waits_at_once_and_is_served() -> None:
    report = run_scenario(FIXED["crowd"], SHORT)
    kept(report)
    assert report.numbers["waiting at once"] == "300"


def test_a_crowd_that_there_is_no_room_for_is_a_broken_promise() -> None:
    crowd = FIXED["crowd"]
    small = replace(crowd, flags={**crowd.flags, "waiting-requests": "100"})
    broken(run_scenario(small, SHORT), "calls waited at once and not 300")


def test_quiet_accounts_are_served_beside_a_flood() -> None:
    kept(run_scenario(FIXED["fairness"], SHORT))


def test_a_quiet_account_that_is_refused_is_a_broken_promise(tmp_path: Path) -> None:
    stingy = with_plans("fairness", tmp_path, ("rate: 500/s, burst: 5000", "rate: 1/min"))
    broken(run_scenario(stingy, SHORT), "calls of the quiet were answered 429")


def test_critical_calls_succeed_while_the_api_is_overloaded() -> None:
    kept(run_scenario(FIXED["overload"], SHORT))


def test_critical_calls_that_the_overload_fails_are_a_broken_promise() -> None:
    narrow = Capacity(workers=2, service_ms=200, queue=0)
    report = run_scenario(replace(FIXED["overload"], api=narrow, flags={"shed": "off"}), SHORT)
    broken(report, "critical calls were answered 503")


def test_jobs_outlive_their_sidecars() -> None:
    kept(run_scenario(FIXED["jobs"], replace(SHORT, seconds=12)))


def test_jobs_on_the_wrong_sidecars_are_broken_promises() -> None:
    """Which promise a kill breaks depends on what it interrupts; test_job_verdict.py has each."""
    jobs = FIXED["jobs"]
    swapped = replace(jobs, sidecars=jobs.sidecars[::-1])
    report = run_scenario(swapped, replace(SHORT, seconds=12))
    assert report.code == 1
    lost, twice = "a job at-least-once is failed, lost", "a job at-most-once ran twice"
    assert any(lost in line or twice in line for line in report.verdict.lines())
