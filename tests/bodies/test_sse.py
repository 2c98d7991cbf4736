"""Server-sent events: streams of real providers, and the details of the line format."""

import gzip
import json
import re
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.bodies.found import MAX_WHOLE
from sidecar.bodies.sse import MAX_LINE
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
        (USAGE % 5 + b'data: {"usage": {"total_tokens": "six"}}\n\n', Unreadable.NOT_A_NUMBER),
    ],
)
def test_a_missing_value_has_a_reason(body: bytes, why: Unreadable) -> None:
    assert value(body).unreadable == {"tokens": why}


@pytest.mark.parametrize("data", [b"overloaded", b'{"message": "overloaded"}', b"{\ndata: }"])
@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_an_event_named_error_is_an_error_whatever_its_data_is(data: bytes, eol: bytes) -> None:
    stream = USAGE % 5 + b"event: error\ndata: " + data + b"\n\n"
    for parts in ([stream.replace(b"\n", eol)], bytewise(stream.replace(b"\n", eol))):
        reader = a_reader(SSE)
        for part in parts:
            reader.feed(part)
        assert reader.failed
        assert not reader.finish().values


@pytest.mark.parametrize(
    "event",
    [b"event: error\n\n", b"event: errors\ndata: x\n\n", b"event: error\nevent: x\ndata: x\n\n",
     b"events: error\ndata: x\n\n", b"event: error\n\ndata: x\n\n"],
)  # fmt: skip
def test_an_event_of_another_name_or_without_data_is_not_an_error(event: bytes) -> None:
    reader = a_reader(SSE)
    reader.feed(USAGE % 5 + event)
    assert not reader.failed
    assert reader.finish().values == {"tokens": 5}


def test_a_path_of_numbers_is_read_from_every_event() -> None:
    paths = (("n", JsonPath.parse("0.1")),)
    assert read([b"data: [[1, 2]]\n\ndata: {}\n\n"], SSE, paths=paths).values == {"n": 2}


@pytest.mark.parametrize("size", [0, MAX_LINE - 60, MAX_LINE, MAX_WHOLE, 1_100_000])
def test_an_event_of_any_size_is_read(size: int) -> None:
    image = b'data: {"usage": {"total_tokens": 4200}, "image": "%b"}\n\n' % (b"A" * size)
    text = b"data: {\n" + b'data: "a": "A",\n' * (size // 9) + USAGE[:6] + USAGE[7:-2] + b"\n\n"
    for event, tokens in ((image, 4200), (text % 7, 7)):
        for parts in ([USAGE % 5 + event], [USAGE % 5, *pieces(event, 4_000)]):
            assert read(parts, SSE).values == {"tokens": tokens}
        assert read([*pieces(event, 999), USAGE % 6], SSE).values == {"tokens": 6}


def test_I9_a_large_event_takes_little_memory() -> None:
    reader = a_reader(SSE)
    tracemalloc.start()
    try:
        reader.feed(b'data: {"image": "')
        for _ in range(256):
            reader.feed(b"A" * 65_536)
        reader.feed(b'", "usage": {"total_tokens": 5}}\n\n')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.finish() == Reading({"tokens": 5}, {})
    assert peak < 2 << 20


def test_a_large_event_that_is_not_json_changes_nothing() -> None:
    image = b"data: " + b"x" * MAX_WHOLE + b"\n\n"
    assert value(USAGE % 5 + image + TEXT).values == {"tokens": 5}


def pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize("name", [b"", b": ", b"event: ", b"database"])
def test_a_long_line_of_another_field_loses_nothing(name: bytes) -> None:
    long = name + b"x" * (2 * MAX_LINE) + b"\n"
    for parts in (
        [long, USAGE % 5],
        [long[:7], long[7:] + USAGE % 5],
        [long[:-1], b"\n", USAGE % 5],
    ):
        assert read([USAGE % 4, *parts], SSE).values == {"tokens": 5}
        assert read([USAGE % 4, *parts[:-1], long], SSE).values


def test_I11_a_value_that_passed_before_a_stream_broke_off_counts() -> None:
    reading = read([USAGE % 1, TEXT], SSE, complete=False)
    assert reading.values == {"tokens": 1}
    assert reading.unreadable == {"tokens": Unreadable.TRUNCATED}, "more may have passed since"
    assert read([TEXT, USAGE % 7], SSE, complete=False) == Reading({"tokens": 7}, {})
    assert read([TEXT], SSE, complete=False).unreadable == {"tokens": Unreadable.TRUNCATED}


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
