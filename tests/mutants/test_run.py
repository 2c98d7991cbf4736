"""The run of mutants: what it chooses, how it judges, and that the tests decide."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.mutants.__main__ import arguments, chosen, report, scores
from tests.mutants.copies import BrokenRun, Copy, Result
from tests.mutants.patches import ROOT, Mutant, read_mutants

FILE = "sidecar/core/jobs/job.py"
TESTS = ("tests/core/jobs/test_job.py",)

ROOMS = {
    "commands", "config", "core", "gate", "jobs", "kubernetes", "metering", "proxy", "reconcile",
    "stores", "waiting",
}  # fmt: skip


def mutant(old: str, new: str, room: str = "core") -> Mutant:
    """A mutant of the jobs' arithmetic."""
    return Mutant(room, FILE, old, new, "the last try is left out", TESTS, TESTS)


LAST_TRY = mutant("job.tries <= MAX_TRIES", "job.tries < MAX_TRIES")
NO_CHANGE = mutant("MAX_TRIES: Final = 5", "MAX_TRIES: Final = 4 + 1")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the tree."""
    return Copy(tmp_path_factory.mktemp("copy"), 100)


def test_a_mutant_is_killed_by_the_test_that_fails_and_the_checkout_stays(copy: Copy) -> None:
    before = (ROOT / FILE).read_text()
    killed = copy.run(LAST_TRY)
    assert killed.killed_by.startswith(f"{TESTS[0]}::test_")
    assert before.splitlines()[killed.line - 1].endswith(LAST_TRY.old)
    assert (ROOT / FILE).read_text() == before
    assert copy.run(NO_CHANGE).killed_by == "", "the mutant before is still there"


def test_a_run_without_tests_is_not_a_result(copy: Copy) -> None:
    with pytest.raises(BrokenRun, match="pytest ended with"):
        copy.run(LAST_TRY._replace(tests=("tests/support/builders.py",)))


def test_tests_that_do_not_end_in_time_kill_a_mutant(tmp_path: Path) -> None:
    assert Copy(tmp_path, 0.01).run(NO_CHANGE).killed_by == "time limit"


def test_a_room_below_90_percent_fails() -> None:
    console = Console(quiet=True)
    killed, survived = Result(LAST_TRY, 1, "a test"), Result(NO_CHANGE, 1, "")
    other_room = Result(mutant("a", "b", "gate"), 1, "a test")
    assert scores([killed, survived, other_room]) == {"core": (1, 2), "gate": (1, 1)}
    assert report([killed] * 9 + [survived], console)
    assert not report([killed] * 8 + [survived], console)
    assert not report([other_room] * 99 + [survived], console)


def test_options_choose_a_room_a_file_or_some_by_chance() -> None:
    everything = read_mutants()
    assert {one.room for one in everything} == ROOMS
    assert {one.room for one in chosen(everything, "gate", 0, 0)} == {"gate"}
    assert {one.file for one in chosen(everything, "core/periods.py", 0, 0)} == {
        "sidecar/core/periods.py"
    }
    some = chosen(everything, "", 5, 1)
    assert len(some) == 5
    assert some == chosen(everything, "", 5, 1) != chosen(everything, "", 5, 2)
    with pytest.raises(SystemExit):
        arguments(["--jobs", "0"])
