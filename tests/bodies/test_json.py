"""JSON bodies of responses and requests: values, reasons and limits."""

import gzip
import json
import os
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.bodies import read_request, reader_for
from sidecar.bodies.found import MAX_WHOLE
from sidecar.core.costs import Reserve, Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading
from tests.support.codings import JSON, TOKENS, a_reader, bytewise, read

BODY = b'{"usage": {"total_tokens": 350}}'


@pytest.mark.parametrize(
    "kind",
    [
        b"application/json", b"Application/JSON; charset=utf-8", b" application/json ;x",
        b"text/json", b"application/problem+json", b"application/vnd.acme.v1+json", b"a/b+json",
    ],
)  # fmt: skip
def test_every_kind_of_json_is_read(kind: bytes) -> None:
    assert read([BODY], kind).values == {"tokens": 350}


@pytest.mark.parametrize(
    "kind",
    [b"", b"text/html", b"application/jsonp", b"application/x-json", b"image/png", b"json",
     b"+json", b"application/xml", b"\xff"],
)  # fmt: skip
def test_a_body_of_another_type_is_not_parsed(kind: bytes) -> None:
    reader = a_reader(kind)
    assert not reader.wanted
    reader.feed(BODY)
    assert reader.finish().unreadable == {"tokens": Unreadable.NOT_JSON}


def test_a_body_without_paths_is_read_for_errors_alone() -> None:
    reader = reader_for(JSON, b"", ())
    reader.feed(b'{"error": {"message": "overloaded"}}')
    assert reader.finish() == Reading({}, {})
    assert reader.failed


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", Unreadable.NOT_JSON),
        (b"   ", Unreadable.NOT_JSON),
        (b"<html>", Unreadable.NOT_JSON),
        (BODY[:-1], Unreadable.NOT_JSON),
        (BODY + b"{}", Unreadable.NOT_JSON),
        (b"[" * 100_000, Unreadable.NOT_JSON),
        (b"{}", Unreadable.MISSING),
        (b"[]", Unreadable.MISSING),
        (b"null", Unreadable.MISSING),
        (b'{"usage": 350}', Unreadable.MISSING),
        (b'{"error": {"message": "overloaded"}}', Unreadable.MISSING),
        (b'{"usage": {"total_tokens": null}}', Unreadable.MISSING),
        (b'{"usage": {"total_tokens": -1}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": 1.5}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": true}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": "3.5"}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": "-350"}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": ""}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": NaN}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": -Infinity}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": %b}}' % (b"9" * 5_000), Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": 9007199254740992}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": 1e300}}', Unreadable.NOT_A_NUMBER),
        (b'{"usage": {"total_tokens": 99999999999999999999999}}', Unreadable.NOT_A_NUMBER),
    ],
)
def test_a_missing_value_has_a_reason(body: bytes, why: Unreadable) -> None:
    reading = read([body])
    assert (dict(reading.values), dict(reading.unreadable)) == ({}, {"tokens": why})


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("0", 0),
        ("350.0", 350),
        ("3.5e2", 350),
        ("9007199254740991", 2**53 - 1),
        ("-0", 0),
        ('"350"', 350),
        ('"9007199254740991"', 2**53 - 1),
    ],
)
def test_every_way_to_write_a_whole_number_is_read(text: str, tokens: int) -> None:
    body = b'{"usage": {"total_tokens": %s}}' % text.encode()
    assert read([body]).values == {"tokens": tokens}
    assert read([b"\xef\xbb\xbf" + body]).values == {"tokens": tokens}


# What a language model may write in its text, and lax servers around it.
LAX = {
    "half-of-a-surrogate-pair": b'{"text": "\\ud83d", "\\ud83d": 1, ',
    "half-of-a-character": b'{"text": "\xf0\x9f", ',
    "not-utf-8": b'{"text": "caf\xe9", ',
    "control-character": b'{"text": "a\x01\n", ',
    "nan": b'{"logprob": NaN, "least": -Infinity, ',
    "number-of-any-size": b'{"id": 1e999, "n": %b, ' % (b"9" * 5_000),
}


@pytest.mark.parametrize("size", [0, MAX_WHOLE])
@pytest.mark.parametrize("name", LAX)
def test_I11_text_that_is_not_strict_json_does_not_hide_the_cost(name: str, size: int) -> None:
    """Strict parsers refuse these texts; many clients read them, and a client can cause them."""
    body = LAX[name] + b'"pad": "%b", "usage": {"total_tokens": 350}}' % (b"A" * size)
    assert read([body]).values == {"tokens": 350}
    assert read([body[at : at + 4_001] for at in range(0, len(body), 4_001)]) == read([body])
    request = body.replace(b'"usage"', b'"max_tokens": 70, "usage"')
    wide = ("tokens", Reserve(JsonPath.parse("max_tokens"), 1, 1 << 20))
    assert read_request(request, b"", [wide]).values == {"tokens": 70}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be", "utf-8-sig"])
def test_unicode_encodings_that_json_parsers_recognise_are_read(encoding: str) -> None:
    assert read([BODY.decode().encode(encoding)]).values == {"tokens": 350}


@pytest.mark.parametrize(
    "kind",
    [
        b"application/x-ndjson; charset=utf-8", b"application/ndjson", b"text/x-ndjson",
        b"application/jsonl", b"application/x-jsonlines", b"application/json-lines",
        b"application/stream+json", b"application/x-json-stream", b"application/vnd.acme+jsonl",
        b"application/json-seq",
    ],
)  # fmt: skip
def test_every_kind_of_lines_is_read(kind: bytes) -> None:
    body = b'{"usage": {"total_tokens": 5}}\r\n \n' + BODY + b"\r\n"
    assert read([body], kind).values == {"tokens": 350}
    assert read(bytewise(body), kind).values == {"tokens": 350}


@pytest.mark.parametrize("kind", [b"application/json-seq", b"application/geo+json-seq"])
def test_a_document_of_a_text_sequence_may_have_line_ends(kind: bytes) -> None:
    """RFC 7464: a record separator begins each document."""
    body = b'\x1e{"usage": {"total_tokens": 5}}\n\x1e{"usage":\n {"total_tokens": 350}}\n'
    assert read([body], kind).values == {"tokens": 350}
    assert read(bytewise(body), kind).values == {"tokens": 350}


def test_each_meter_has_its_own_reading() -> None:
    paths = (*TOKENS, ("images", JsonPath.parse("images")), ("cost", JsonPath.parse("a.0.cost")))
    reading = read([b'{"usage": {"total_tokens": 1}, "images": "x", "a": []}'], paths=paths)
    assert reading.values == {"tokens": 1}
    assert reading.unreadable == {"images": Unreadable.NOT_A_NUMBER, "cost": Unreadable.MISSING}


@pytest.mark.parametrize("usage_first", [True, False])
@pytest.mark.parametrize("coding", [b"", b"gzip"])
def test_I9_a_body_of_any_size_is_read_in_little_memory(coding: bytes, usage_first: bool) -> None:
    embedding = b'{"index": 0, "embedding": [%b]},' % (b"0.0123456789," * 20_000)[:-1]
    usage, data = b'"usage": {"total_tokens": 120000}', [b'"data": [', embedding[:-1], b"]"]
    parts = [usage, b", ", *data] if usage_first else [*data, b", ", usage]
    noise = os.urandom(32_768).hex().encode()
    filler = [b', "more": "', *[noise] * 64, b'"}']
    pieces = [b"{", *parts, *filler]
    encoded = pieces
    if coding:
        compressor = zlib.compressobj(level=1, wbits=31)
        encoded = [*map(compressor.compress, pieces), compressor.flush()]
    reader = a_reader(JSON, coding)
    tracemalloc.start()
    try:
        for piece in encoded:
            reader.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.finish() == Reading({"tokens": 120_000}, {})
    assert peak < 2 << 20


@pytest.mark.parametrize("tail", [b"", b"]", b"}}", b'"} x', b'", }', b'" "a": 1}'])
def test_a_large_body_that_is_not_json_has_no_cost(tail: bytes) -> None:
    body = b'{"usage": {"total_tokens": 350}, "text": "' + b"A" * MAX_WHOLE + tail
    assert read([body]).unreadable == {"tokens": Unreadable.NOT_JSON}


@pytest.mark.parametrize("body", [b"", BODY[:10], BODY[:-3]])
def test_an_incomplete_body_is_truncated(body: bytes) -> None:
    reading = read([body], complete=False)
    assert reading.unreadable == {"tokens": Unreadable.TRUNCATED}


def test_I11_a_value_that_passed_before_a_body_broke_off_counts() -> None:
    for body in (BODY, BODY[:-1], BODY[:-1] + b', "text": "abc'):
        assert read([body], complete=False) == Reading({"tokens": 350}, {})


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["usage", "total_tokens", "x"]), inner, max_size=3)
    ),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(JSON_VALUES, st.lists(st.integers(0, 300), max_size=6), st.booleans())
def test_every_split_reads_the_values_of_the_document(
    document: Any, cuts: list[int], broken: bool
) -> None:
    body = json.dumps(document).encode()[: -1 if broken else None]
    edges = [0, *sorted(at % (len(body) + 1) for at in cuts), len(body)]
    reading = read([body[a:b] for a, b in pairwise(edges)])
    assert reading == read([body])
    if not broken and not isinstance(document, list):  # its items are documents, too
        expected = Reading.from_document(json.loads(body), TOKENS)
        assert reading == expected


MAX_TOKENS = ("tokens", Reserve(JsonPath.parse("max_tokens"), 1024, 100))


def test_the_cost_is_read_from_the_request() -> None:
    reading = read_request(b'{"max_tokens": 5}', b"", [MAX_TOKENS])
    assert (reading.values, reading.unreadable) == ({"tokens": 5}, {})
    encoded = gzip.compress(b'{"max_tokens": 6}', mtime=0)
    assert read_request(encoded, b"gzip", [MAX_TOKENS]).values == {"tokens": 6}


@pytest.mark.parametrize(
    ("body", "coding", "why"),
    [
        (b"", b"", Unreadable.NOT_JSON),
        (b"max_tokens=5", b"", Unreadable.NOT_JSON),
        (b'data: {"max_tokens": 5}\n\n', b"", Unreadable.NOT_JSON),
        (b'{"max_tokens": 5}', b"gzip", Unreadable.UNDECODABLE),
        (b'{"max_tokens": 5}', b"rot13", Unreadable.UNDECODABLE),
        (gzip.compress(b'{"max_tokens": 5}', mtime=0)[:-12], b"gzip", Unreadable.TRUNCATED),
        (b'{"max_tokens": "all"}', b"", Unreadable.NOT_A_NUMBER),
        (b'{"max_tokens": -5}', b"", Unreadable.NOT_A_NUMBER),
        (b"{}", b"", Unreadable.MISSING),
        (b'{"max_tokens": 5}' + b" " * 84, b"", Unreadable.TOO_LARGE),
        (gzip.compress(b" " * ((1 << 20) + 1), mtime=0)[:100], b"gzip", Unreadable.TRUNCATED),
    ],
)
def test_a_request_without_its_cost_has_a_reason(
    body: bytes, coding: bytes, why: Unreadable
) -> None:
    reading = read_request(body, coding, [MAX_TOKENS])
    assert (dict(reading.values), dict(reading.unreadable)) == ({}, {"tokens": why})


def test_an_incomplete_request_body_is_too_large() -> None:
    reading = read_request(b'{"max_tokens": 5}', b"", [MAX_TOKENS], complete=False)
    assert reading.unreadable == {"tokens": Unreadable.TOO_LARGE}


def test_each_meter_of_a_request_has_its_own_limit() -> None:
    wide = ("images", Reserve(JsonPath.parse("n"), 1, 1_000))
    body = b'{"max_tokens": 5, "n": 3}' + b" " * 100
    reading = read_request(body, b"", [MAX_TOKENS, wide])
    assert reading.values == {"images": 3}
    assert reading.unreadable == {"tokens": Unreadable.TOO_LARGE}


@pytest.mark.parametrize("bound", [262_144, 1 << 20])
def test_I9_a_request_never_decodes_to_more_than_its_limit(bound: int) -> None:
    """A few kilobytes that decode to megabytes of small values delayed all other requests."""
    reserve = ("tokens", Reserve(JsonPath.parse("max_tokens"), 1, bound))
    for dense in (b"1,", b"[],", b'"",', b'{"a":1},'):
        body = b'{"max_tokens": 5, "x": [' + dense * (bound // len(dense)) + b"1]}"
        encoded = gzip.compress(body, mtime=0)
        assert len(encoded) < 6_000
        reading = read_request(encoded, b"gzip", [reserve])
        assert reading.unreadable == {"tokens": Unreadable.TOO_LARGE}
        fitting = body[: bound - 4].rpartition(b",")[0] + b"]}"
        assert read_request(gzip.compress(fitting), b"gzip", [reserve]).values == {"tokens": 5}


def calls_of(function: Callable[[], object]) -> int:
    """The calls of functions, in Python and in C, that one call makes."""
    counts = [0]

    def count(_frame: object, event: str, _argument: object) -> None:
        counts[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return counts[0]


@pytest.mark.parametrize(
    "dense", [b"[],", b"{},", b'"",', b'{"a": "b"},', b"[[1],[2]],", b'{"a": {"b": []}},']
)
def test_I9_small_values_that_no_path_wants_are_skipped_together(dense: bytes) -> None:
    """Reading a large response costs about as much for many small values as for few large ones."""
    body = b'{"x": [' + dense * (400_000 // len(dense)) + b'1], "usage": {"total_tokens": 350}}'
    parts = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
    assert read(parts).values == {"tokens": 350}
    assert calls_of(lambda: read(parts)) < 1_000


def test_I9_scalars_in_an_array_of_documents_are_skipped_together() -> None:
    body = b"[" + b"1, null, " * 60_000 + b'{"usage": {"total_tokens": 350}}]'
    reader = a_reader()
    for at in range(0, len(body), 65_536):
        reader.feed(body[at : at + 65_536])
    assert calls_of(lambda: read([body])) < 1_000
    assert reader.finish().values == {"tokens": 350}
    assert reader.events == 120_001
