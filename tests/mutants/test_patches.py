"""The list of mutants fits the code, and the run keeps the score."""

import pytest

from tests.mutants.patches import ROOT, Mutant, read_mutants

MUTANTS = read_mutants()
NAMES = [f"{one.file}-{one.why}" for one in MUTANTS]


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_a_mutant_changes_one_place_of_the_code(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    mutated = mutant.applied_to(text)
    assert mutated != text
    compile(mutated, mutant.file, "exec")
    assert mutant.file.startswith(f"sidecar/{mutant.room}/")


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_the_tests_of_a_mutant_exist(mutant: Mutant) -> None:
    assert mutant.tests
    for path in (*mutant.tests, *mutant.room_tests):
        assert (ROOT / path).exists(), path


def test_no_mutant_is_listed_twice() -> None:
    changes = [(one.file, one.old, one.new) for one in MUTANTS]
    assert len(set(changes)) == len(changes)
