"""Sequence coverage: numbers in any order prove which events are missing."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sidecar.metering import gaps
from sidecar.metering.gaps import MissingEvents, SequenceCoverage


def missing(seqs: list[int], end: int = 0) -> list[MissingEvents]:
    coverage = SequenceCoverage()
    for seq in seqs:
        coverage.add("s", seq)
    if end:
        coverage.add_head("s", end)
    return list(coverage.missing())


@given(st.lists(st.integers(1, 30)), st.integers(0, 35))
def test_missing_are_exactly_the_numbers_that_were_not_added(seqs: list[int], end: int) -> None:
    reported = {seq for one in missing(seqs, end) for seq in range(one.first, one.last + 1)}
    last = max([*seqs, end - 1], default=0)
    assert reported == set(range(1, last + 1)) - set(seqs)


def test_each_spool_has_its_own_gaps_and_other_values_are_ignored() -> None:
    coverage = SequenceCoverage()
    for spool, seq in [("a", 1), ("b", 2), ("a", 3), (None, 7), ("c", None), (7, 7), ({}, 1)]:
        coverage.add(spool, seq)
    assert list(map(str, coverage.missing())) == [
        "spool a: events 2 to 2", "spool b: events 1 to 1"
    ]  # fmt: skip
    assert not coverage.incomplete


def test_a_head_proves_that_later_events_are_missing() -> None:
    assert missing([1, 2], end=5) == [MissingEvents("s", 3, 4)]
    coverage = SequenceCoverage()
    coverage.add_head("s", 3)
    assert list(coverage.missing()) == [MissingEvents("s", 1, 2)]


def test_too_many_runs_make_the_coverage_incomplete() -> None:
    seqs = list(range(1, 4 * gaps.MAX_RUNS, 2))
    random.Random(1).shuffle(seqs)
    coverage = SequenceCoverage()
    for seq in seqs:
        coverage.add("s", seq)
    assert coverage.incomplete


def test_too_many_spools_make_the_coverage_incomplete() -> None:
    coverage = SequenceCoverage()
    for number in range(gaps.MAX_SPOOLS + 1):
        coverage.add(f"spool-{number}", 1)
    assert coverage.incomplete


def test_copies_of_a_part_hide_no_event() -> None:
    """As after a sink that failed: its last batch comes again."""
    assert missing([*range(1, 11), 9, 10]) == []
    assert missing([*range(1, 11), 4, 5, 6]) == []
    assert missing([3, 4, 5, 4, 5]) == [MissingEvents("s", 1, 2)]


def test_an_older_head_takes_nothing_back() -> None:
    coverage = SequenceCoverage()
    for end in (5, 3):
        coverage.add_head("s", end)
    assert list(coverage.missing()) == [MissingEvents("s", 1, 4)]
