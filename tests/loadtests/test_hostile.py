"""Short runs with hostile clients, and the verdict on them.

`make hostile` runs every attack for longer, and judges latency.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.hostile import table
from loadtests.hostile.__main__ import arguments
from loadtests.hostile.clients import CRITICAL, NORMAL, Measurements
from loadtests.hostile.verdict import MIB, REDIS_BUDGET, Evidence, row_of

ROOT = Path(__file__).parents[2]
WITHIN_S = 100
# One for each resource: the event loop, memory, Redis, the upstream's connections, rates.
SHORT = ["tiny-chunks", "slow-heads", "job-loops", "slow-critical-uploads", "huge-usage"]


@pytest.mark.timeout(2 * WITHIN_S)
@pytest.mark.parametrize("name", SHORT)
def test_I3_I9_an_attack_stays_within_its_bounds(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.hostile", "--only", name, "--seconds", "2", "--untimed"],
        cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every attack stays within its bounds." in done.stdout
    assert done.stderr == ""


@pytest.fixture
def evidence() -> Evidence:
    """Evidence of an attack without violations."""
    measurements = Measurements()
    for client in (NORMAL, CRITICAL):
        measurements.of(client, "calm").extend([0.02] * 100)
        measurements.of(client, "attack").extend([0.04] * 100)
    return Evidence(
        name="slow-heads", connections=4_000, sent=4_000, measurements=measurements,
        idle_bytes=60 * MIB, peak_bytes=120 * MIB, redis_growth=REDIS_BUDGET,
    )  # fmt: skip


def wrong(evidence: Evidence, *, timed: bool = True) -> str:
    return "; ".join(row_of(evidence, timed=timed).wrong)


def test_an_attack_without_violations_is_ok(evidence: Evidence) -> None:
    row = row_of(evidence)
    assert row.wrong == ()
    assert (row.requests, row.failed) == (200, 0)
    lines = list(table.lines([row]))
    assert "20.0 to 40.0 ms" in lines[1]
    assert "60 to 120 MiB" in lines[1]
    assert lines[-1] == "Every attack stays within its bounds."


def test_memory_beyond_its_bounds_is_named(evidence: Evidence) -> None:
    assert "resident memory grew from 60 to 121 MiB" in wrong(
        replace(evidence, peak_bytes=121 * MIB)
    )
    assert "Redis grew by 17.0 MiB (bound: 16 MiB)" in wrong(
        replace(evidence, redis_growth=17 * MIB)
    )


def test_each_failure_of_a_measured_client_is_named(evidence: Evidence) -> None:
    evidence.measurements.failures.update({"normal: status 503": 3, "critical: status 503": 1})
    row = row_of(evidence)
    assert row.failed == 4
    assert row.wrong == ("3 × normal: status 503", "1 × critical: status 503")
    assert list(table.lines([row]))[-1] == "Broken: slow-heads."


@pytest.mark.parametrize(
    ("calm", "during", "sentence"),
    [
        (0.02, 0.041, "critical: p99 41.0 ms, 20.0 ms without the attack"),
        (0.001, 0.021, "critical: p99 21.0 ms, 1.0 ms without the attack"),
        (0.001, 0.019, ""),  # below 10 ms, noise decides
    ],
)
def test_a_p99_that_more_than_doubles_is_named(
    evidence: Evidence, calm: float, during: float, sentence: str
) -> None:
    evidence.measurements.of(CRITICAL, "calm")[:] = [calm] * 100
    evidence.measurements.of(CRITICAL, "attack")[:] = [during] * 100
    assert wrong(evidence) == sentence
    assert wrong(evidence, timed=False) == ""


def test_a_traceback_in_the_log_is_named(evidence: Evidence) -> None:
    assert wrong(replace(evidence, error_lines=["Traceback"])) == "log: Traceback"


def test_a_run_without_an_attack_or_without_answers_proves_nothing(evidence: Evidence) -> None:
    assert "the attacker sent nothing" in wrong(replace(evidence, sent=0))
    evidence.measurements.of(NORMAL, "attack").clear()
    assert "normal: 0 answers in phase attack" in wrong(evidence)


def test_an_attack_shorter_than_1_s_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--seconds", "0.5"])
    assert "--seconds must be at least 1" in capsys.readouterr().err
