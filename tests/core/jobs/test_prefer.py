"""Prefer after RFC 7240; malformed preferences are ignored."""

import pytest

from sidecar.core.jobs.prefer import preference_name, preferences, wait_preference, wants_async


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([b"respond-async"], True),
        ([b"Respond-Async"], True),
        ([b"handling=lenient, respond-async; foo=bar"], True),
        ([b"wait=10", b"respond-async"], True),
        ([b"respond-async=x"], True),
        ([], False),
        ([b""], False),
        ([b"return=minimal"], False),
        ([b"respond-asynchronous"], False),
        ([b'foo="a, respond-async, b"'], False),
        ([b'foo="\\", respond-async"'], False),
        ([b", ,;=,"], False),
        ([b"respond-async," + b'"\\' * 300], False),  # longer than the bound
    ],
)
def test_respond_async_is_recognised(values: list[bytes], wanted: bool) -> None:
    assert wants_async(values) is wanted


def test_names_of_preferences_follow_rfc_7240() -> None:
    value = b'a; b="c,d", E = "f", g'
    assert [preference_name(member) for member in preferences(value)] == [b"a", b"e", b"g"]


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        ([b"wait=10"], 10),
        ([b"respond-async", b"WAIT = 3; x=y"], 3),
        ([b'wait="7"'], 7),
        ([b"wait=0"], 0),
        ([b"wait=5, wait=9"], 5),
        ([b'foo="wait=4", bar'], None),
        ([b"wait"], None),
        ([b"wait=-1"], None),
        ([b"wait=1.5"], None),
        ([b"wait=" + b"9" * 10], None),
        ([b"waiting=2"], None),
    ],
)
def test_the_wait_preference_is_read_in_seconds(values: list[bytes], seconds: int | None) -> None:
    assert wait_preference(values) == (None if seconds is None else seconds * 1_000_000)
