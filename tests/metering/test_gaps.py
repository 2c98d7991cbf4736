"""Numbers that were seen, in any order, prove which were not."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sidecar.metering import gaps
from sidecar.metering.gaps import Missing, SequenceCoverage


def missing(seqs: list[int], end: int = 0) -> list[Missing]:
    found = SequenceCoverage()
    for seq in seqs:
        found.saw("s", seq)
    if end:
        found.ends("s", end)
    return list(found.missing())


@given(st.lists(st.integers(1, 30)), st.integers(0, 35))
def test_what_is_missing_is_what_was_not_seen(seqs: list[int], end: int) -> None:
    told = {seq for one in missing(seqs, end) for seq in range(one.first, one.last + 1)}
    last = max([*seqs, end - 1], default=0)
    assert told == set(range(1, last + 1)) - set(seqs)


def test_spools_are_told_apart_and_what_is_no_place_is_nobodys() -> None:
    found = SequenceCoverage()
    for spool, seq in [("a", 1), ("b", 2), ("a", 3), (None, 7), ("c", None), (7, 7), ({}, 1)]:
        found.saw(spool, seq)
    assert list(map(str, found.missing())) == [
        "spool a: events 2 to 2", "spool b: events 1 to 1"
    ]  # fmt: skip
    assert not found.unknown


def test_a_head_tells_of_events_that_nobody_has() -> None:
    assert missing([1, 2], end=5) == [Missing("s", 3, 4)]
    found = SequenceCoverage()
    found.ends("s", 3)
    assert list(found.missing()) == [Missing("s", 1, 2)]


def test_a_pile_too_wild_to_remember_proves_nothing() -> None:
    seqs = list(range(1, 4 * gaps.RUNS, 2))
    random.Random(1).shuffle(seqs)
    found = SequenceCoverage()
    for seq in seqs:
        found.saw("s", seq)
    assert found.unknown


def test_more_spools_than_are_looked_after_prove_nothing() -> None:
    found = SequenceCoverage()
    for number in range(gaps.SPOOLS + 1):
        found.saw(f"spool-{number}", 1)
    assert found.unknown
