"""Faults of Redis under load, in short: each stays within its bounds, and nothing is left. The
whole list, with times, is `make faults`."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.faults import table
from loadtests.faults.__main__ import NAMES, arguments
from loadtests.faults.accounts import CALLERS, QUOTA
from loadtests.faults.calls import Seen
from loadtests.faults.faults import FAULTS
from loadtests.faults.verdict import COUNTED, PACED, SPENT, Evidence, beyond, percentile, row_of

ROOT = Path(__file__).parents[2]
WITHIN_S = 100


@pytest.mark.timeout(2 * WITHIN_S)
@pytest.mark.parametrize("name", ["stands-still", "slow-by-2-s", "read-only", "out-of-memory"])
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
    """Of a fault in which all went well."""
    seen = Seen()
    seen.statuses["during"][COUNTED.account, 200] = QUOTA
    seen.critical["before"] = seen.critical["during"] = [0.01] * 100
    still = next(fault for fault in FAULTS if fault.name == "stands still")
    arrived: dict[str, list[float]] = {one.account: [] for one in CALLERS}
    arrived[COUNTED.account] = [0.0] * QUOTA
    return Evidence(
        fault=still, seen=seen, arrived=arrived, most=dict.fromkeys(arrived, 4), lost_at=100,
        cuts=0, given_back=0, rested=True, books=counters(), rebuilt=None,
    )  # fmt: skip


def wrong(evidence: Evidence) -> str:
    return "; ".join(row_of(evidence).wrong)


def test_a_fault_in_which_all_went_well_is_ok(evidence: Evidence) -> None:
    row = row_of(evidence)
    assert row.wrong == ()
    assert list(table.lines([row]))[-1] == "Every fault is within its bounds."


def test_what_breaks_a_promise_is_named(evidence: Evidence) -> None:
    arrived = {**evidence.arrived, COUNTED.account: [0.0] * (QUOTA + 5)}
    assert "+5 calls beyond the quota; up to 4 may be" in wrong(replace(evidence, arrived=arrived))
    arrived = {**evidence.arrived, PACED.account: [0.0] * 27}
    assert "7 calls beyond the rate; up to 6" in wrong(replace(evidence, arrived=arrived))
    most = dict.fromkeys(evidence.most, 7)
    assert "7 calls at once; up to 6 may be" in wrong(replace(evidence, most=most))
    assert "a counter is 9 above" in wrong(replace(evidence, books=counters(daily=9)))
    assert "a counter is 1 below" in wrong(replace(evidence, books=counters(daily=-1)))
    assert "owed to Redis" in wrong(replace(evidence, rested=False))
    assert "the log says: no" in wrong(replace(evidence, complaints=["no"]))


def test_what_callers_may_not_get_is_named(evidence: Evidence) -> None:
    seen = evidence.seen
    seen.statuses["during"][SPENT.account, 503] = 2
    seen.statuses["after"][COUNTED.account, 500] = 1
    seen.broken["an answer that was cut"] = 3
    seen.critical["during"] = [0.2] * 100
    said = wrong(evidence)
    assert "2 critical calls were not answered by the API" in said
    assert "1 answers say that something failed" in said
    assert "3 × an answer that was cut" in said
    assert "critical calls took 200 ms, and 10 before" in said
    assert "took" not in "; ".join(row_of(evidence, timed=False).wrong)
    assert "BROKEN" in "\n".join(table.lines([row_of(evidence)]))


def test_calls_that_have_no_event_are_named(evidence: Evidence) -> None:
    arrived = {**evidence.arrived, COUNTED.account: [0.0] * (QUOTA + 1)}
    assert f"{QUOTA} events of {QUOTA + 1} forwarded calls" in wrong(
        replace(evidence, arrived=arrived)
    )


def test_lost_data_may_leave_counters_too_low_until_they_are_rebuilt(evidence: Evidence) -> None:
    forgets = next(fault for fault in FAULTS if fault.forgets)
    lost = replace(evidence, fault=forgets, books=counters(monthly=-50), rebuilt=counters())
    assert row_of(lost).wrong == ()
    assert "did not restore" in wrong(replace(lost, rebuilt=counters(monthly=-1)))


def test_the_busiest_stretch_is_what_exceeds_a_bucket() -> None:
    assert beyond(10, 2, []) <= 0
    assert beyond(10, 2, [0.0, 0.0, 1.0, 1.0]) == 0
    assert beyond(10, 2, [0.0, 0.0, 0.1, 0.1, 5.0]) == 1


def test_a_percentile_of_few_is_one_of_them() -> None:
    assert percentile([], 99) == 0.0
    assert percentile([0.001, 0.5], 99) == 500.0


def test_a_fault_too_short_to_tell_is_not_begun(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--seconds", "0.5"])
    assert "--seconds starts at 1" in capsys.readouterr().err
    assert set(NAMES) == {fault.name.replace(" ", "-") for fault in FAULTS}
