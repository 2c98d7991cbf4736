"""docs/how-to/operate.md: its runbook names real metrics and log events; its table is computed."""

import re
from pathlib import Path

import pytest

from loadtests.capacity import LARGE, MEASURED, SMALL, Measured, fleet, rows, table
from tests.docs.test_log_events import LOG_CALLS
from tests.docs.test_metrics import documented as documented_metrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "operate.md").read_text()
RUNBOOK = PAGE.partition("## When something breaks")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in RUNBOOK.splitlines()
    if line.startswith("| ") and not line.startswith("| failure")
]
OF_THE_CLIENT = {"process_start_time_seconds"}  # of prometheus-client, for each process


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


@pytest.mark.parametrize("cells", ROWS, ids=lambda cells: cells[0])
def test_each_failure_has_a_metric_and_a_log_event_that_exist(cells: list[str]) -> None:
    _, metric, event, sidecar, you = cells
    assert names(metric)
    assert set(names(metric)) <= {*documented_metrics(), *OF_THE_CLIENT}
    assert names(event)
    assert set(names(event)) <= {call.event for call in LOG_CALLS}
    assert sidecar and you


def test_the_runbook_has_each_kind_of_failure() -> None:
    assert len(ROWS) >= 20
    text = RUNBOOK.lower()
    for word in ("redis", "api", "spool", "sink", "killed", "power", "plan file", "certificate"):
        assert word in text


def test_the_table_of_fleets_is_that_of_the_script() -> None:
    assert table(SMALL, LARGE) in PAGE


@pytest.mark.parametrize("measured", MEASURED, ids=lambda one: one.words[:40])
def test_each_constant_is_the_number_of_its_measurement(measured: Measured) -> None:
    text = re.sub(r"\s+", " ", (ROOT / measured.file).read_text())
    assert measured.words in text
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", measured.words)]
    assert measured.value in numbers


def test_needs_grow_with_the_fleet_and_options_change_it() -> None:
    (one,) = fleet(["--pods", "10", "--accounts", "1000", "--active", "1"])
    (two,) = fleet(["--pods", "20", "--accounts", "1000", "--active", "1"])
    first, second = dict(rows(one)), dict(rows(two))
    assert first["CPU of all sidecars"] == "0.1 cores"
    assert second["CPU of all sidecars"] == "0.2 cores"
    assert first["memory of Redis, twice its data"] == second["memory of Redis, twice its data"]
    (without,) = fleet(["--pods", "1000", "--no-jobs"])
    jobs = "CPU of Redis for heartbeats, changes and jobs"
    assert dict(rows(without))[jobs] < dict(rows(LARGE))[jobs]


@pytest.mark.parametrize("wrong", [["--pods", "0"], ["--average", "2"], ["--active", "-1"]])
def test_impossible_fleets_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fleet(wrong)
