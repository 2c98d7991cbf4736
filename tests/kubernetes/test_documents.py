"""Manifests as text: read as Kubernetes reads them, written so that it reads the same."""

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ManifestError
from sidecar.kubernetes import documents, scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("1_000", 1000), ("0644", 420), ("0o17", 15),
        ("0x1F", 31), ("0b11", 3), ("-7", -7), ("+7", 7), ("0", 0), ("y", True), ("Off", False),
        ("~", None), ("null", None), ("", None), (".inf", math.inf), ("-.inf", -math.inf),
        ("12:30", "12:30"), ("2026-01-15", "2026-01-15"), ("1.2.3", "1.2.3"), ("08", 8.0),
        ("18446744073709551616", 18446744073709551616.0), ("9" * 200, "9" * 200), ("0xg", "0xg"),
        ("yEs", "yEs"), ("=", "="), ("100m", "100m"), ("-", "-"), ("1e", "1e"),
    ],
)  # fmt: skip
def test_a_plain_scalar_has_the_type_that_kubernetes_gives_it(text: str, value: object) -> None:
    read = scalars.read(text)
    assert (read, type(read)) == (value, type(value))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["y", "1e3", "12:30", "0o17", "1_0", "<<", "=", "a: b", "x\n y\n", "#"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3),
    max_leaves=12,
)  # fmt: skip


def is_yaml(value: Any) -> bool:
    return not documents._NOT_YAML.search(json.dumps(value, ensure_ascii=False))


@given(st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=4).filter(is_yaml))
def test_what_is_written_reads_the_same_also_for_readers_of_yaml_1_1(value: Any) -> None:
    text = documents.write([value])
    assert documents.read(text.encode(), "f") == [value]
    if "e+" not in text and "e-" not in text:  # PyYAML reads 1e+20 as a string
        assert yaml.safe_load(text) == value


def test_a_plan_file_stays_readable_and_several_documents_are_separated() -> None:
    text = documents.write([{"data": {"plans.yaml": "version: 1\nplans: {}\n"}}, {"kind": "x"}])
    assert text == "---\ndata:\n  plans.yaml: |\n    version: 1\n    plans: {}\n---\nkind: x\n"


def test_json_aliases_merges_and_empty_documents_are_read() -> None:
    text = b'---\n---\n{"a": [1, "x"]}\n---\nbase: &b {x: 1, y: 2}\nuse: {<<: *b, x: 3}\n---\n'
    assert documents.read(text, "f") == [
        {"a": [1, "x"]},
        {"base": {"x": 1, "y": 2}, "use": {"x": 3, "y": 2}},
    ]


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "f:2:1: not valid YAML: did not find expected ',' or ']'; correct it"),
        (b"a: 1\na: 2\n", "f:2:1: the key a is there twice; remove one"),
        (b"just words\n", "f:1:1: is not a Kubernetes object; begin with apiVersion and kind"),
        (b"a: !secret x\n", "f:1:4: has a tag; remove the word that begins with !"),
        (b"? [a]\n: b\n", "f:1:3: is not a key; put a value with { } in quotes"),
        (b"a: {<<: x}\n", "f:1:9: << needs a mapping; write an alias of one"),
        (b"a: \xff\n", "f: is not UTF-8; save it as UTF-8"),
        (b"a: 1\nb: \x01\n", "f:2: YAML does not allow the character U+0001; remove it"),
        (b"[" * 100, "f:1: more than 64 levels; remove some"),
        (b"x" * 8_000_001, "f: has more than 8,000,000 bytes; split it"),
        (BOMB.encode(), "the file is too large with its aliases; use fewer aliases"),
    ],
    ids=["syntax", "twice", "scalar", "tag", "key", "merge", "utf8", "control", "deep", "large",
         "aliases"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_position(content: bytes, message: str) -> None:
    with pytest.raises(ManifestError) as raised:
        documents.read(content, "f")
    assert str(raised.value).endswith(message)
