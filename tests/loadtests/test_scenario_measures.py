"""The verdicts and measurements of the scenarios."""

from fractions import Fraction
from pathlib import Path

import pytest

from loadtests.checks import Rate
from loadtests.run import arguments, chosen
from loadtests.scenarios.catalog import NAMES
from loadtests.scenarios.measures import over_rate, overtaken, p99, typical_p99
from loadtests.scenarios.report import Report, read

TEN_A_SECOND = Rate("per-second", "requests", Fraction(10), 5)
BURST = [0.0] * 5


def test_one_in_a_hundred_is_slower_than_the_p99() -> None:
    assert p99([float(n) for n in range(100)]) == 99
    assert p99([3.0, 1.0, 2.0]) == 3


def test_a_disturbed_phase_does_not_decide() -> None:
    assert typical_p99([[0.12] * 20, [9.0] * 20, [0.1] * 20]) == 0.12


@pytest.mark.parametrize("phases", [[], [[0.1] * 20, [0.1] * 19]])
def test_too_few_requests_prove_nothing(phases: list[list[float]]) -> None:
    assert typical_p99(phases) is None


@pytest.mark.parametrize(
    ("arrivals", "over"),
    [
        ([0.0], -4),
        (BURST, 0),
        ([*BURST, 0.1, 0.2, 0.3], 0),
        ([*BURST, 0.1, 0.1, 0.1], 2),
        ([*BURST, 0.05], 0.5),
        ([*BURST, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0], 1),  # the bucket does not hold more
        ([0.0, *(9.0 for _ in BURST), 9.1, 9.1], 1),  # in the fullest window, not in the whole
    ],
)
def test_requests_over_the_limit_are_detected_in_any_window(
    arrivals: list[float], over: float
) -> None:
    assert over_rate(arrivals, TEN_A_SECOND) == pytest.approx(over)


@pytest.mark.parametrize(
    ("arrivals", "late"),
    [
        ({0: 1.0, 1: 2.0, 2: 3.0}, []),
        ({0: 1.1, 1: 1.0, 2: 3.0}, []),  # within the slack
        ({0: 2.0, 1: 1.0, 2: 3.0}, [0]),
        ({0: 4.0, 1: 5.0, 2: 1.0}, [0, 1]),
        ({5: 4.0, 3: 1.0}, []),
    ],
)
def test_overtaken_requests_are_named(arrivals: dict[int, float], late: list[int]) -> None:
    assert overtaken(arrivals, 0.2) == late


def test_a_written_report_can_be_read(tmp_path: Path) -> None:
    report = Report()
    report.record("memory", "140 MB")
    report.check(True, "not reported")
    report.check(False, "a request was lost")
    report.check_time(False, "it took too long")
    report.write(tmp_path / "result.json")
    result = read(tmp_path / "result.json")
    assert result.numbers == {"memory": "140 MB"}
    assert result.verdict.lines() == ["1 × a request was lost", "1 × it took too long"]
    assert (report.code, result.code) == (1, 1)


def test_without_timing_latency_is_not_judged() -> None:
    report = Report(timing=False)
    report.check_time(False, "it took too long")
    assert report.code == 0
    report.check(False, "a request was lost")
    assert report.code == 1


def test_all_scenarios_run_or_only_one() -> None:
    assert [one.name for one in chosen(arguments([]))] == list(NAMES)
    assert [one.name for one in chosen(arguments(["--scenario", "crowd"]))] == ["crowd"]


@pytest.mark.parametrize(
    "wrong", [["--users", "3"], ["--seconds", "0"], ["--calls", "99"], ["--scenario", "party"]]
)
def test_invalid_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(wrong)
    assert wrong[0] in capsys.readouterr().err
