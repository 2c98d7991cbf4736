"""Short versions of the scenarios: guarantees hold on the product, and violations are named.

Latency is not judged here, because the machine may be busy.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from loadtests.scenarios.assignment import Options
from loadtests.scenarios.catalog import FIXED, Capacity, Scenario
from loadtests.scenarios.report import Report
from loadtests.scenarios.runner import run_scenario

# An import of Locust would patch this process for gevent: only check that it is installed.
pytestmark = [
    pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed"),
    pytest.mark.timeout(240),
]

SHORT = Options(seconds=4, calls=300, timing=False)


def with_plans(name: str, directory: Path, *changes: tuple[str, str]) -> Scenario:
    """A scenario with changes in its plan file."""
    text = FIXED[name].plans.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    plans = directory / f"{name}.yaml"
    plans.write_text(text)
    return replace(FIXED[name], plans=plans)


def assert_holds(report: Report) -> None:
    assert report.verdict.lines() == []
    assert report.numbers
    assert report.code == 0


def assert_broken(report: Report, *sentences: str) -> None:
    assert report.code == 1
    for sentence in sentences:
        assert any(sentence in line for line in report.verdict.lines()), report.verdict.lines()


def test_a_burst_waits_and_is_served_in_order(tmp_path: Path) -> None:
    larger = ("burst: 20", "burst: 140"), ("burst: 5", "burst: 35")  # takes 3 s instead of 9
    assert_holds(run_scenario(with_plans("burst", tmp_path, *larger), SHORT))


def test_a_burst_that_may_not_wait_breaks_the_guarantee(tmp_path: Path) -> None:
    report = run_scenario(with_plans("burst", tmp_path, (", max_wait: 20s", "")), SHORT)
    assert_broken(report, "a request of one was answered 429", "no request of two waited")


def test_a_crowd_waits_at_once_and_is_served() -> None:
    report = run_scenario(FIXED["crowd"], SHORT)
    assert_holds(report)
    assert report.numbers["waiting at once"] == "300"


def test_a_crowd_larger_than_the_wait_queue_breaks_the_guarantee() -> None:
    crowd = FIXED["crowd"]
    small = replace(crowd, flags={**crowd.flags, "waiting-requests": "30"})
    report = run_scenario(small, replace(SHORT, calls=100))
    assert_broken(report, "requests waited at once, not 100")


def test_quiet_accounts_are_served_beside_a_flood() -> None:
    assert_holds(run_scenario(FIXED["fairness"], SHORT))


def test_a_refused_quiet_account_breaks_the_guarantee(tmp_path: Path) -> None:
    stingy = with_plans("fairness", tmp_path, ("rate: 500/s, burst: 5000", "rate: 1/min"))
    assert_broken(run_scenario(stingy, SHORT), "requests of the quiet accounts were answered 429")


def test_critical_requests_succeed_while_the_api_is_overloaded() -> None:
    assert_holds(run_scenario(FIXED["overload"], SHORT))


def test_critical_requests_that_fail_under_overload_break_the_guarantee() -> None:
    narrow = Capacity(workers=2, service_ms=200, queue=0)
    report = run_scenario(replace(FIXED["overload"], api=narrow, flags={"shed": "off"}), SHORT)
    assert_broken(report, "critical requests were answered 503")


def test_jobs_survive_the_kill_of_their_sidecar() -> None:
    assert_holds(run_scenario(FIXED["jobs"], replace(SHORT, seconds=12)))
