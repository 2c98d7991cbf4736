"""The scanner of large documents finds what a parser finds, wherever the bytes are cut."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.bodies.coding import UnreadableBody
from sidecar.bodies.found import Found
from sidecar.bodies.scanner import MAX_DEPTH, MAX_TOKEN, Scanner
from sidecar.core.json_cost import Formula

TEXTS = ("usage.total", "data.#", "data.1.n", "x", "error.code", "response.usage.total", "1")
PATHS = Formula.parse(TEXTS).paths
NAMES = ["usage", "total", "data", "n", "x", "error", "response", "type", "\u00e9", '"', "#", ""]
DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**60)
    | st.sampled_from(["error", '\\"{[', "\u00e9"])
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=20,
)


def scanned(parts: list[bytes]) -> Scanner:
    scanner = Scanner(PATHS)
    for part in parts:
        scanner.feed(part)
    scanner.finish()
    return scanner


@settings(max_examples=500, deadline=None)
@given(DOCUMENTS, st.lists(st.integers(0, 300), max_size=6), st.booleans(), st.booleans())
def test_it_finds_what_a_parser_finds(
    document: Any, cuts: list[int], escaped: bool, spaced: bool
) -> None:
    text = json.dumps(document, ensure_ascii=escaped, indent=1 if spaced else None)
    body = text.encode()
    found = Found([(path.text, Formula.parse([path.text])) for path in PATHS])
    found.take_document(json.loads(body))
    edges = [0, *sorted(at % (len(body) + 1) for at in cuts), len(body)]
    for parts in ([body[a:b] for a, b in pairwise(edges)], [bytes([byte]) for byte in body]):
        scanner = scanned(parts)
        assert (scanner.values, scanner.error) == (found.values, found.failed)


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS, st.integers(1, 10))
def test_an_incomplete_document_is_not_accepted(document: Any, missing: int) -> None:
    body = json.dumps({"data": document}).encode()
    with pytest.raises(UnreadableBody):
        scanned([body[:-missing]])


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"}", b"{]", b'{"a"}', b'{"a":}', b'{"a" 1}', b'{"a":1,}', b"[1,]", b"[,1]",
        b'{"x":"\\q"}', b"{a:1}",
        b'{"a":1}}', b'{"a":1} {}', b'{"a":tru}', b'{"a":01}', b"1 2", b'"a',
        b"[" * (MAX_DEPTH + 1),
    ],
)  # fmt: skip
def test_what_is_not_json_has_no_values(body: bytes) -> None:
    with pytest.raises(UnreadableBody):
        scanned([body])


def test_I9_long_names_numbers_and_strings_are_not_kept() -> None:
    long = b"9" * (100 * MAX_TOKEN)
    body = b'{"%b": 1, "n": %b, "t": "%b", "x": %b, "usage": {"total": 7}}' % (
        long,
        long,
        long,
        long,
    )
    scanner = Scanner(PATHS)
    for at in range(0, len(body), 1_000):
        scanner.feed(body[at : at + 1_000])
        assert len(scanner._token) <= 2 * MAX_TOKEN + 2
    scanner.finish()
    assert scanner.values == {"x": "not_a_number", "usage.total": 7}
