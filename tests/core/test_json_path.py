"""Dotted paths, compiled once and followed through any JSON."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.json_path import JsonPath

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab01"), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("path", "document", "value"),
    [
        ("n", {"n": 7}, 7),
        ("usage.total_tokens", {"usage": {"total_tokens": 350}}, 350),
        ("choices.1.n", {"choices": [{"n": 1}, {"n": 2}]}, 2),
        ("0", [5], 5),
        ("a.0", {"a": {"0": 9}}, 9),
        ("a.1", {"a": [5]}, None),
        ("a.b", {"a": [5]}, None),
        ("a.b", {"a": "text"}, None),
        ("a.b", {"a": None}, None),
        ("a", 5, None),
        ("a.b", {}, None),
        ("a.-1", {"a": [5]}, None),
    ],
)
def test_a_path_finds_its_value(path: str, document: Any, value: Any) -> None:
    assert JsonPath.parse(path).find(document) == value


STEPS = st.lists(st.sampled_from(["a", "b", "0", "1", "99"]), min_size=1, max_size=5)


@given(JSON, STEPS)
def test_any_value_at_a_path_is_found(value: Any, steps: list[str]) -> None:
    in_objects, in_arrays = value, value
    for step in reversed(steps):
        in_objects = {step: in_objects, "other": None}
        in_arrays = [None] * int(step) + [in_arrays] if step.isdecimal() else {step: in_arrays}
    path = JsonPath.parse(".".join(steps))
    assert path.find(in_objects) == value
    assert path.find(in_arrays) == value


@given(JSON, STEPS)
def test_a_missing_value_reads_as_None(document: Any, steps: list[str]) -> None:
    found = JsonPath.parse(".".join(["missing", *steps])).find(document)
    assert found is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "$.a",
        "a[0]",
        "a b",
        "a/b",
        "é",
        "a\n",
        "a" * 65,
        "a" + ".a" * 16,
    ],
)
def test_an_invalid_path_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="write names joined by dots, like usage"):
        JsonPath.parse(text)
