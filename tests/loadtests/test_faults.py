"""Short runs with faults of Redis: each fault stays within its bounds.

`make faults` runs them all, and judges latency.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.faults import table
from loadtests.faults.__main__ import NAMES, arguments
from loadtests.faults.accounts import CLIENTS, QUOTA
from loadtests.faults.clients import Measurements
from loadtests.faults.faults import FAULTS
from loadtests.faults.verdict import (
    COUNTED,
    PACED,
    USED_UP,
    Evidence,
    percentile,
    rate_excess,
    row_of,
)

ROOT = Path(__file__).parents[2]
WITHIN_S = 100


@pytest.mark.timeout(2 * WITHIN_S)
@pytest.mark.parametrize("name", ["stopped", "read-only"])
def test_I1_I3_I5_a_fault_of_redis_stays_within_its_bounds(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.faults", "--only", name, "--seconds", "2", "--untimed"],
        cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every fault is within its bounds." in done.stdout
    assert done.stderr == ""


def counters(**differences: int) -> dict[str, object]:
    return {
        "counters": [
            {"account": COUNTED.account, "limit": name, "events": QUOTA, "difference": apart}
            for name, apart in (differences or {"monthly": 0}).items()
        ]
    }


@pytest.fixture
def evidence() -> Evidence:
    """Evidence of a fault without violations."""
    measurements = Measurements()
    measurements.statuses["during"][COUNTED.account, 200] = QUOTA
    measurements.critical["before"] = measurements.critical["during"] = [0.01] * 100
    stopped = next(fault for fault in FAULTS if fault.name == "stopped")
    arrived: dict[str, list[float]] = {one.account: [] for one in CLIENTS}
    arrived[COUNTED.account] = [0.0] * QUOTA
    return Evidence(
        fault=stopped, measurements=measurements, arrived=arrived,
        most=dict.fromkeys(arrived, 4), lost_at=100,
        cuts=0, late_reservations=0, at_rest=True, reconciliation=counters(), rebuilt=None,
    )  # fmt: skip


def wrong(evidence: Evidence) -> str:
    return "; ".join(row_of(evidence).wrong)


def test_a_fault_without_violations_is_ok(evidence: Evidence) -> None:
    row = row_of(evidence)
    assert row.wrong == ()
    assert list(table.lines([row]))[-1] == "Every fault is within its bounds."


def test_each_violation_is_named(evidence: Evidence) -> None:
    arrived = {**evidence.arrived, COUNTED.account: [0.0] * (QUOTA + 5)}
    assert "+5 requests beyond the quota (bound: 4)" in wrong(replace(evidence, arrived=arrived))
    arrived = {**evidence.arrived, PACED.account: [0.0] * 27}
    assert "7 requests beyond the rate (bound: 6)" in wrong(replace(evidence, arrived=arrived))
    most = dict.fromkeys(evidence.most, 7)
    assert "7 requests in flight (bound: 6)" in wrong(replace(evidence, most=most))
    assert "a counter is 9 above" in wrong(replace(evidence, reconciliation=counters(daily=9)))
    assert "a counter is 1 below" in wrong(replace(evidence, reconciliation=counters(daily=-1)))
    assert "units were still uncharged after a minute" in wrong(replace(evidence, at_rest=False))
    assert "log: no" in wrong(replace(evidence, error_lines=["no"]))


def test_bad_answers_are_named(evidence: Evidence) -> None:
    measurements = evidence.measurements
    measurements.statuses["during"][USED_UP.account, 503] = 2
    measurements.statuses["after"][COUNTED.account, 500] = 1
    measurements.broken["an incomplete answer"] = 3
    measurements.critical["during"] = [0.2] * 100
    sentences = wrong(evidence)
    assert "2 critical requests were not answered by the API" in sentences
    assert "1 answers have status 500, 502 or 504" in sentences
    assert "3 × an incomplete answer" in sentences
    assert "critical requests took 200 ms, 10 ms before" in sentences
    assert "took" not in "; ".join(row_of(evidence, timed=False).wrong)
    assert "BROKEN" in "\n".join(table.lines([row_of(evidence)]))


def test_requests_without_an_event_are_named(evidence: Evidence) -> None:
    arrived = {**evidence.arrived, COUNTED.account: [0.0] * (QUOTA + 1)}
    assert f"{QUOTA} events of {QUOTA + 1} forwarded requests" in wrong(
        replace(evidence, arrived=arrived)
    )


def test_lost_data_may_lower_counters_until_a_rebuild(evidence: Evidence) -> None:
    forgets = next(fault for fault in FAULTS if fault.forgets)
    lost = replace(
        evidence, fault=forgets, reconciliation=counters(monthly=-50), rebuilt=counters()
    )
    assert row_of(lost).wrong == ()
    assert "did not restore" in wrong(replace(lost, rebuilt=counters(monthly=-1)))


def test_the_busiest_span_decides_what_exceeds_a_bucket() -> None:
    assert rate_excess(10, 2, []) <= 0
    assert rate_excess(10, 2, [0.0, 0.0, 1.0, 1.0]) == 0
    assert rate_excess(10, 2, [0.0, 0.0, 0.1, 0.1, 5.0]) == 1


def test_a_percentile_of_few_values_is_one_of_them() -> None:
    assert percentile([], 99) == 0.0
    assert percentile([0.001, 0.5], 99) == 500.0


def test_a_fault_shorter_than_1_s_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--seconds", "0.5"])
    assert "--seconds must be at least 1" in capsys.readouterr().err
    assert set(NAMES) == {fault.name.replace(" ", "-") for fault in FAULTS}
