"""The loader of plan files, on files that are almost valid. `make fuzz` searches for longer."""

import pytest
from hypothesis import given, settings

from tests.fuzz.plan_file import almost_valid, check


@settings(max_examples=50)
@given(almost_valid())
def test_security_an_almost_valid_file_is_loaded_or_has_problems_with_positions(
    text: bytes,
) -> None:
    check(text)


@pytest.mark.parametrize(
    "text",
    [
        b"version: 1\r\r\rx: [",  # YAML counts more lines than there are line feeds
        b"version: 1\xc2\x85\xe2\x80\xa8x: @",
        b"version: 1\rx: \xff",
        b"version: 1\rx: \x07",
        b"version: 1\rmeters: {${X}: [",
        b'meters: {"a\\x07b": {unit: r}}\nroutes: [{id: a, match: "/", cost: {x: 1}}]',
    ],
)
def test_security_what_the_fuzzers_have_found_stays_mended(text: bytes) -> None:
    check(text)


def test_the_check_finds_an_error_that_is_not_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_text: bytes, _name: str) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("tests.fuzz.plan_file.parse", broken)
    with pytest.raises(KeyError):
        check(b"version: 1")
