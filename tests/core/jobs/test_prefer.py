"""What is read of Prefer: what RFC 7240 has, and nothing of what is malformed."""

import pytest

from sidecar.core.jobs.prefer import members, name_of, wait_preference, wants_async


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
        ([b"respond-async," + b'"\\' * 300], False),  # longer than is read
    ],
)
def test_whether_a_client_prefers_to_be_answered_later(values: list[bytes], wanted: bool) -> None:
    assert wants_async(values) is wanted


def test_the_names_of_preferences_are_read_as_rfc_7240_has_them() -> None:
    value = b'a; b="c,d", E = "f", g'
    assert [name_of(member) for member in members(value)] == [b"a", b"e", b"g"]


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
def test_for_how_long_a_client_would_wait(values: list[bytes], seconds: int | None) -> None:
    assert wait_preference(values) == (None if seconds is None else seconds * 1_000_000)
