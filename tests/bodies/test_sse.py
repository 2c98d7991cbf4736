"""Server-sent events: streams of real providers, and the details of the line format."""

import gzip
import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.bodies.sse import MAX_DATA
from sidecar.core.costs import Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading, whole_units
from tests.support.codings import SSE, TOKENS, a_reader, bytewise, read

OPENAI = b"""\
data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":\
{"role":"assistant","content":""},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":\
{"content":"A \\"total_tokens\\" of \\u00e9"},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[],"usage":\
{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}}

data: [DONE]

"""
ANTHROPIC = b"""\
event: message_start
data: {"type":"message_start","message":{"id":"msg_1","usage":\
{"input_tokens":25,"output_tokens":1}}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}

event: message_stop
data: {"type":"message_stop"}

"""
USAGE = b'data: {"usage": {"total_tokens": %d}}\n\n'
TEXT = b'data: {"delta": "text"}\n\n'


def value(body: bytes) -> Reading:
    return read([body], SSE)


def test_the_usage_is_read_from_the_last_chunk_of_an_openai_stream() -> None:
    assert value(OPENAI).values == {"tokens": 29}
    assert read(bytewise(OPENAI), b"Text/Event-Stream; charset=utf-8").values == {"tokens": 29}
    assert read([gzip.compress(OPENAI, mtime=0)], SSE, b"gzip").values == {"tokens": 29}


def test_the_usage_is_read_from_several_events_of_an_anthropic_stream() -> None:
    paths = (
        ("input", JsonPath.parse("message.usage.input_tokens")),
        ("output", JsonPath.parse("usage.output_tokens")),
        ("cached", JsonPath.parse("usage.cached")),
    )
    reading = read([ANTHROPIC], SSE, paths=paths)
    assert reading.values == {"input": 25, "output": 15}
    assert reading.unreadable == {"cached": Unreadable.MISSING}


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("sample", [OPENAI, TEXT + USAGE % 29])
def test_every_line_end_and_every_split_gives_the_same_reading(sample: bytes, end: bytes) -> None:
    body = sample.replace(b"\n", end)
    for at in range(len(body) + 1):
        assert read([body[:at], body[at:]], SSE).values == {"tokens": 29}
    assert read(bytewise(body), SSE).values == {"tokens": 29}


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b"\xef\xbb\xbf" + USAGE % 5, 5),
        (b'data:{"usage":{"total_tokens":5}}\n\n', 5),
        (b'data: {"usage":\ndata: {"total_tokens":\ndata:5}}\n\n', 5),
        (b"data\n" + USAGE % 5, 5),
        (b": a comment\nid: 7\nretry: 10\n" + USAGE % 5, 5),
        (USAGE % 5 + b'data: {"usage": {"total_tokens": 6}}', 6),
        (USAGE % 5 + b'data: {"usage": {"total_tokens": 6}}\n', 6),
        (b"\n\n\n" + USAGE % 5 + b"\n\n\n", 5),
        (USAGE % 5 + USAGE % 6 + TEXT, 6),
        (USAGE % 9 + USAGE % 2, 2),
        (USAGE % 5 + b'data: {"usage": null}\n\ndata: {"usage": {"total_tokens": null}}\n\n', 5),
        (USAGE % 5 + b'data: not {"usage": {"total_tokens": 6}}\n\n', 5),
        (b'data: {"usage": {"total_\\u0074okens": 5}}\n\n', 5),
        (USAGE % 5 + b"data: [DONE]\n\n", 5),
        (b"data: [DONE]\n\n" + USAGE % 5, 5),
    ],
)
def test_the_last_value_counts(body: bytes, tokens: int) -> None:
    assert value(body).values == {"tokens": tokens}
    assert read(bytewise(body), SSE).values == {"tokens": tokens}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", Unreadable.MISSING),
        (TEXT, Unreadable.MISSING),
        (b"data: [DONE]\n\n", Unreadable.MISSING),
        (b'database: {"usage": {"total_tokens": 5}}\n\n', Unreadable.MISSING),
        (b'event: {"usage": {"total_tokens": 5}}\n\n', Unreadable.MISSING),
        (b' data: {"usage": {"total_tokens": 5}}\n\n', Unreadable.MISSING),
        (b"\n\xef\xbb\xbf" + USAGE % 5, Unreadable.MISSING),
        (b'data: {"usage": {"total_tokens": 5}', Unreadable.MISSING),
        (b'data: {"usage": {"total_tokens": 1.5}}\n\n', Unreadable.NOT_A_NUMBER),
        (USAGE % 5 + b'data: {"usage": {"total_tokens": "6"}}\n\n', Unreadable.NOT_A_NUMBER),
    ],
)
def test_a_missing_value_has_a_reason(body: bytes, why: Unreadable) -> None:
    assert value(body).unreadable == {"tokens": why}


def test_a_path_of_numbers_is_read_from_every_event() -> None:
    paths = (("n", JsonPath.parse("0.1")),)
    assert read([b"data: [[1, 2]]\n\ndata: {}\n\n"], SSE, paths=paths).values == {"n": 2}


def test_I9_data_that_is_too_large_is_skipped_and_a_later_value_counts() -> None:
    image = b"data: " + b"x" * MAX_DATA + b"\n\n"
    many = b"data: xxxxxxxxx\n" * (MAX_DATA // 10 + 1) + b"\n"
    for large in (image, many):
        assert value(USAGE % 5 + large).unreadable == {"tokens": Unreadable.TOO_LARGE}
        assert value(USAGE % 5 + large + TEXT + USAGE % 6).values == {"tokens": 6}


@pytest.mark.parametrize("name", [b"", b": ", b"event: ", b"database"])
def test_a_long_line_of_another_field_loses_nothing(name: bytes) -> None:
    long = name + b"x" * (2 * MAX_DATA) + b"\n"
    for parts in (
        [long, USAGE % 5],
        [long[:7], long[7:] + USAGE % 5],
        [long[:-1], b"\n", USAGE % 5],
    ):
        assert read([USAGE % 4, *parts], SSE).values == {"tokens": 5}
        assert read([USAGE % 4, *parts[:-1], long], SSE).values


def test_data_is_read_up_to_the_size_limit() -> None:
    data = b'{"usage": {"total_tokens": 5}}'
    line = b"data: " + data + b" " * (MAX_DATA - len(data) - 6)
    assert value(line + b"\n\n").values == {"tokens": 5}
    assert value(line + b" \n\n").unreadable == {"tokens": Unreadable.TOO_LARGE}


def test_a_truncated_stream_keeps_the_estimate() -> None:
    reading = read([USAGE % 1, TEXT], SSE, complete=False)
    assert reading.unreadable == {"tokens": Unreadable.TRUNCATED}


def test_a_stream_is_complete_after_done() -> None:
    assert read([OPENAI], SSE, complete=False).values == {"tokens": 29}
    stream = gzip.compress(OPENAI, mtime=0)[:-8]  # the client closed before the end
    assert read([stream], SSE, b"gzip", complete=False).values == {"tokens": 29}


def test_the_stream_is_not_kept_in_memory() -> None:
    reader = a_reader(SSE)
    for number in range(20_000):
        reader.feed(USAGE % number)
    assert reader.wanted
    assert reader.finish().values == {"tokens": 19_999}


def by_the_letter(body: bytes) -> Reading:
    """A plain implementation of the same rules: first all lines, then all events."""
    found: dict[str, int | Unreadable] = {"tokens": Unreadable.MISSING}
    data: list[bytes] = []
    for line in [*re.split(rb"\r\n|\n|\r", body.removeprefix(b"\xef\xbb\xbf")), b""]:
        if line:
            name, _, rest = line.partition(b":")
            if name == b"data":
                data.append(rest.removeprefix(b" "))
            continue
        try:
            value = TOKENS[0][1].find(json.loads(b"\n".join(data).decode()))
        except ValueError:
            value = None
        if value is not None:
            found["tokens"] = whole_units(value)
        data = []
    return Reading.of(found)


PIECES = st.sampled_from(
    [b"data", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"data: ", b"event: x", b"\xef\xbb\xbf",
     b'{"usage": {"total_tokens": ', b"7}}", b"-1}}", b"null}}", b"[DONE]", b"\\u0041",
     b'{"usage": {"total_tokens": 3}}', b'data: {"usage": {"total_tokens": 4}}\n\n'],
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=25), st.lists(st.integers(0, 500), max_size=6))
def test_every_split_reads_as_the_specification_says(pieces: list[bytes], cuts: list[int]) -> None:
    body = b"".join(pieces)
    edges = [0, *sorted(at % (len(body) + 1) for at in cuts), len(body)]
    expected = by_the_letter(body)
    assert read([body[a:b] for a, b in pairwise(edges)], SSE) == expected
    assert read(bytewise(body), SSE) == expected
