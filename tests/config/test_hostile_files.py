"""Files that would hang, crash or exhaust a careless reader are rejected with a message."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.loading import load, parse
from sidecar.errors import ConfigError

EXAMPLE = (Path(__file__).parents[2] / "examples" / "plans.yaml").read_bytes()
SIDECAR = Path(sys.executable).parent / "sidecar"


def first_problem(text: bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "plans.yaml")
    return str(caught.value.problems[0])


@pytest.mark.parametrize(
    "text",
    [
        b"a: " + b"[" * 40_000 + b"]" * 40_000,
        b"a: " + b"[" * 1_000_000,
        b"a: " + b"{a: " * 40_000,
        b"- " * 40_000,
        b"\n".join(b" " * depth + b"a:" for depth in range(2_000)),
    ],
    ids=["lists", "unclosed", "mappings", "dashes", "indentation"],
)
def test_a_deep_file_is_rejected_where_it_gets_too_deep(text: bytes) -> None:
    assert "more than 32 levels deep" in first_problem(text)


def test_check_reports_a_deep_file(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_bytes(b"a: " + b"[" * 40_000 + b"]" * 40_000)
    done = subprocess.run(
        [SIDECAR, "check", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout.startswith(f"{path}:1:35: this is more than 32 levels deep")


def test_aliases_that_multiply_are_counted() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "the file is too large" in first_problem("\n".join(lines).encode())


def test_a_recursive_alias_is_found_at_once_even_if_repeated() -> None:
    assert "too deep" in first_problem(b"a: &a [" + b"*a, " * 300_000 + b"]")


def test_very_many_nodes_are_rejected_before_they_are_built() -> None:
    assert "the file is too large" in first_problem(b"a: [" + b"x," * 1_100_000 + b"]")


@pytest.mark.parametrize(
    "number",
    [b"1" + b":59" * 500_000, b"9" * 1_000_000, b"0x" + b"f" * 1_000_000, b"0b" + b"1" * 200],
)
def test_a_number_without_end_is_not_computed(number: bytes) -> None:
    assert "is not a number that can be read" in first_problem(EXAMPLE + b"x: " + number)


@pytest.mark.parametrize(
    "value", [b'!!int ""', b"!!bool maybe", b"!!timestamp soon", b"!!float 1:b", b"2026-02-30"]
)
def test_a_value_that_is_not_what_it_claims_is_a_problem(value: bytes) -> None:
    assert first_problem(EXAMPLE + b"x: " + value).startswith("plans.yaml:")


def test_an_endless_file_is_read_up_to_the_bound() -> None:
    with pytest.raises(ConfigError, match="more than 10,000,000 bytes"):
        load(Path("/dev/zero"))


def test_a_file_that_cannot_be_opened_is_a_problem_with_the_cause(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{tmp_path}: is a directory; name another$"):
        load(tmp_path)
    with pytest.raises(ConfigError, match=f"^{tmp_path}/none.yaml: does not exist; name another$"):
        load(tmp_path / "none.yaml")


def test_bytes_that_are_not_utf8_have_a_position() -> None:
    assert first_problem(b"version: 1\nx: \xff\n").startswith(
        "plans.yaml:2:4: the file is not UTF-8"
    )


def test_a_byte_order_mark_and_crlf_are_accepted() -> None:
    assert parse(b"\xef\xbb\xbf" + EXAMPLE, "plans.yaml").plans
    assert parse(EXAMPLE.replace(b"\n", b"\r\n"), "plans.yaml").plans


def test_a_problem_never_sends_control_characters_to_a_terminal() -> None:
    text = EXAMPLE.replace(b'"POST /v1/exports"', rb'"PO\e[2JST /\x07"')
    assert all(ord(letter) >= 32 for letter in first_problem(text))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(EXAMPLE) - 1), st.binary(max_size=6))
def test_any_bytes_give_a_plan_book_or_problems(at: int, junk: bytes) -> None:
    try:
        book = parse(EXAMPLE[:at] + junk + EXAMPLE[at + 3 :], "plans.yaml")
    except ConfigError as error:
        assert error.problems
    else:
        assert book.plans


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["version", "meters", "routes", "plans", "links", "anonymous", "accounts"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda part: (
            st.lists(part, max_size=3)
            | st.dictionaries(st.sampled_from(["id", "limits", "at", "free", "match", "x"]), part)
        ),
        max_leaves=8,
    ),
)
def test_any_value_in_a_section_gives_a_plan_book_or_problems(section: str, value: object) -> None:
    data = yaml.safe_load(EXAMPLE) | {section: value}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()
    try:
        assert parse(text, "plans.yaml").plans
    except ConfigError as error:
        assert error.problems


def test_a_sparse_file_is_read_up_to_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_bytes(b"#")
    os.truncate(path, 1 << 40)  # a sparse terabyte
    with pytest.raises(ConfigError, match="more than 10,000,000 bytes"):
        load(path)
