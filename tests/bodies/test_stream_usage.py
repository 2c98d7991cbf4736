"""The question for a stream's usage, and the filter that hides the answer, in any split."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.bodies.stream_usage import MAX_EVENT, MAX_MEMBERS, UsageFilter, with_usage_asked

ASKED = {"include_usage": True}


def asked(text: str) -> str | None:
    changed = with_usage_asked(text.encode())
    return None if changed is None else changed.decode()


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        ('{"stream":true}', '{"stream_options":{"include_usage":true},"stream":true}'),
        (
            '\n{ "n": 1e400, "stream" : true }',
            '\n{"stream_options":{"include_usage":true}, "n": 1e400, "stream" : true }',
        ),
        (
            '{"stream":true,"stream_options":null}',
            '{"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            '{"stream":true,"stream_options":{ }}',
            '{"stream":true,"stream_options":{"include_usage":true }}',
        ),
        (
            '{"stream":true,"stream_options":{"a":[1,{}],"include_usage":false},"z":0.10}',
            '{"stream":true,"stream_options":{"a":[1,{}],"include_usage":true},"z":0.10}',
        ),
        (
            '{"stream_options":{"a":1},"stream":true,"messages":["\\"}{\\u00e9"]}',
            '{"stream_options":{"include_usage":true,"a":1},"stream":true,'
            '"messages":["\\"}{\\u00e9"]}',
        ),
        (  # what had no effect has none
            '{"stream":true,"stream_options":{"continuous_usage_stats":true,"a":1}}',
            '{"stream":true,"stream_options":'
            '{"include_usage":true,"continuous_usage_stats":false,"a":1}}',
        ),
        (  # names that occur twice: the API takes one or the other
            '{"stream":true,"stream_options":{"a":1},"stream_options":{"include_usage":null}}',
            '{"stream":true,"stream_options":{"include_usage":true,"a":1},'
            '"stream_options":{"include_usage":true}}',
        ),
        (
            '{"stream":true,"stream_\\u006fptions":{}}',
            '{"stream":true,"stream_\\u006fptions":{"include_usage":true}}',
        ),
    ],
)
def test_a_stream_gets_the_question_and_every_other_byte_stays(body: str, changed: str) -> None:
    assert asked(body) == changed
    if "1e400" not in body:
        assert json.loads(changed)["stream_options"].items() >= ASKED.items()


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "True", "on", "yes", "1"])
def test_what_lax_readers_take_for_true_is_a_stream(value: Any) -> None:
    body = json.dumps({"stream": value}).encode()
    assert with_usage_asked(body) is not None
    assert with_usage_asked(b"\xef\xbb\xbf" + body) is not None  # a byte order mark


@pytest.mark.parametrize(
    "body",
    [
        "", "[]", "true", "{}", '{"stream":false}', '{"stream":0}', '{"stream":"no"}',
        '{"stream":null}', '{"stream":true', '{"stream":true}x', '{"stream":NaN}',
        '{"stream":truE}', '{"stream":true "a":1}',
        '{"stream":true,"stream_options":{"include_usage":true}}',
        '{"stream":true,"stream_options":{"include_usage":1}}',
        '{"stream":true,"x":' + "[" * 1_020 + "]" * 1_020 + "}",
    ],
)  # fmt: skip
def test_other_bodies_stay_as_they_are(body: str) -> None:
    assert asked(body) is None


def test_options_that_are_no_object_are_left_to_the_api() -> None:
    body = '{"stream":true,"stream_options":"all"}'
    assert asked(body) in (None, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(["stream_options", "model", "messages"]) | st.text(max_size=5)


@given(
    st.dictionaries(NAMES, JSON, max_size=5),
    st.dictionaries(st.sampled_from(["include_usage", "a", "b"]), JSON, max_size=3) | st.none(),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_only_the_options_of_a_stream_change(
    document: dict[str, Any], options: dict[str, Any] | None, indent: int | None, ascii_only: bool
) -> None:
    document = {**document, "stream": True, "stream_options": options}
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    changed = asked(text)
    if changed is None:
        assert options is not None
        assert options["include_usage"] in (True, 1, "1", "t", "y", "T", "Y", "on", "On", "ON")
    else:
        assert json.loads(changed) == document | {"stream_options": (options or {}) | ASKED}


# The filter


def filtered(parts: list[bytes]) -> bytes:
    usage = UsageFilter()
    return b"".join([*map(usage.feed, parts), usage.finish()])


WORD = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
WORD_ALONE = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_the_client_gets_the_stream_that_it_would_have_without_the_question() -> None:
    assert filtered([WORD, WORD, USAGE, DONE]) == WORD_ALONE * 2 + DONE


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"index":0}],"usage":{"total_tokens":3}}\n\n',  # every chunk has it
        b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
        b'data: {"choices":[],"error":{"message":"usage"}}\n\n',
        b'data: {"type":"message_delta","usage":{"output_tokens":3}}\n\n',
        b'data: {"choices":[],"usage":{}\n\n',  # not JSON
        b'data: "usage"\n\n', b'data: ["usage"]\n\n', b'data: {"x":{"usage":null}}\n\n',
        b'event: usage\nid: "usage"\n\n', b": comment\n\n", b"\n\n\n", b"\r\n\r\r\n",
        b'data: {"choices":[],"usage":{"pad":"' + b"x" * MAX_EVENT + b'"}}\n\n',
    ],
)  # fmt: skip
def test_other_events_pass_unchanged(event: bytes) -> None:
    assert filtered([event, DONE]) == event + DONE


@pytest.mark.parametrize(
    ("event", "passed"),
    [
        (b'id: 7\nevent: x\ndata:{ "usage" : {} , "choices" : [ ] }\n\n', b""),
        (b'data: {"choices":[],\ndata: "usage":{}}\n\n', b""),
        (b'data: {"choices":[],"usage":{}}\r\n\r\n', b""),
        (b'data: {"choices":[],"usage":{}}\r\r', b""),
        (b'\xef\xbb\xbfdata: {"choices":[],"usage":{}}\n\n', b""),
        (b'data: {"choices":[],"usage":{}}', b""),  # without an end
        (b': note\ndata: {"choices":[],"usage":{}}\n\n', b": note\n"),
        (b'data: {"usage":null}\n\n', b"data: {}\n\n"),
        (b'data: {"usage":null , "a":[{"usage":null}]}\n\n', b'data: {"a":[{"usage":null}]}\n\n'),
        (b'data: {"a":1 ,"usage":null }\r\n\r\n', b'data: {"a":1 }\r\n\r\n'),
        (b'data: {"a":1e400,"usage":null,"b":0.10}\n\n', b'data: {"a":1e400,"b":0.10}\n\n'),
    ],
)
def test_usage_is_removed_in_every_form_of_an_event(event: bytes, passed: bytes) -> None:
    assert filtered([event]) == passed


def test_words_pass_without_waiting_for_the_next_event() -> None:
    usage = UsageFilter()
    assert usage.feed(WORD) == WORD_ALONE
    assert usage.feed(b": keep-alive\n") == b": keep-alive\n"
    assert usage.feed(b": ") == b": "
    assert usage.feed(USAGE[:-1]) == USAGE[:-1]  # still the comment
    assert usage.feed(b"\n") == b"\n"
    assert usage.feed(b"data: x\r\r") == b"data: x\r\r"


def test_I9_a_long_event_is_not_held() -> None:
    usage = UsageFilter()
    long = b'data: {"usage":null,"pad":"' + b"x" * (3 * MAX_EVENT)
    passed = usage.feed(long)
    assert passed == long
    assert usage.feed(b'"}\n') == b'"}\n'
    assert usage.feed(b"\n" + WORD) == b"\n" + WORD_ALONE


PIECES = st.sampled_from(
    [
        WORD, USAGE, DONE, WORD.replace(b"\n", b"\r\n"), USAGE.replace(b"\n", b"\r\n"),
        USAGE.replace(b"\n", b"\r"), WORD[:-1], USAGE[:-1], b": note\n", b":\r\n", b"\n", b"\r",
        b"\r\n", b"data", b"data: ", b"id: 1\n", b'{"choices":[],"usage":{}}', b'{"usage":null}',
        b"\xef\xbb\xbf", b"x" * 40_000, b"x" * 65_500,
    ]
) | st.binary(max_size=6)  # fmt: skip


@given(st.lists(PIECES, max_size=8), st.data())
@example([USAGE.replace(b"\n", b"\r\n"), USAGE], None)
def test_no_split_of_the_stream_changes_the_result(
    pieces: list[bytes], data: st.DataObject | None
) -> None:
    stream = b"".join(pieces)
    whole = filtered([stream])
    size = len(stream)
    if data is None or size < 400:
        assert filtered([stream[at : at + 1] for at in range(size)]) == whole
    near = [at + shift for at in _ends(stream) for shift in (-1, 0, 1)]
    spots = st.integers(0, size) | (st.sampled_from(near) if near else st.nothing())
    cuts = sorted({0, size, *(data.draw(st.lists(spots, max_size=12)) if data else [])})
    assert filtered([stream[a:b] for a, b in pairwise(max(0, min(c, size)) for c in cuts)]) == whole


def _ends(stream: bytes) -> list[int]:
    return [found.end() for found in re.finditer(rb"[\r\n]+", stream)]


@given(st.lists(st.sampled_from([WORD_ALONE, DONE, b": note\n\n", b"\n"]), max_size=8))
def test_a_stream_without_usage_passes_as_it_is(pieces: list[bytes]) -> None:
    assert filtered(pieces) == b"".join(pieces)


def hidden(text: str) -> str:
    return filtered([b"data: " + text.encode() + b"\n\n"]).decode()[6:-2]


@given(
    st.lists(st.tuples(NAMES | st.just("usage"), JSON), max_size=4),
    st.integers(0, 4),
    st.sampled_from([None, (" ,  ", " : "), (",", ":")]),
    st.booleans(),
)
def test_only_the_member_usage_of_an_event_is_removed(
    members: list[tuple[str, Any]], at: int, separators: Any, ascii_only: bool
) -> None:
    """With other members and nested ones of that name, in any order and spelling."""
    others = {name: value for name, value in members if name != "usage"}
    nested = [value for name, value in members if name == "usage"]
    items = (
        [*others.items(), ("nested", [{"usage": None}, *nested])] if nested else [*others.items()]
    )
    items.insert(at, ("usage", None))
    text = json.dumps(dict(items), separators=separators, ensure_ascii=ascii_only)
    expected = {name: value for name, value in items if name != "usage"}
    assert json.loads(hidden(text)) == expected
    assert list(json.loads(hidden(text))) == list(expected)


@pytest.mark.parametrize("name", ['"stream_options": {}', '"stream_options": null'])
def test_every_copy_of_the_options_asks(name: str) -> None:
    body = '{"stream": true, ' + ", ".join([name] * (MAX_MEMBERS - 1)) + "}"
    changed = asked(body)
    assert changed == body.replace(name[-4:].strip(": "), '{"include_usage":true}')
    inner = '{"stream": true, "stream_options": {%s}}'
    copies = ", ".join(['"include_usage": 0'] * MAX_MEMBERS)
    assert asked(inner % copies) == inner % copies.replace("0", "true")


@pytest.mark.parametrize("members", ['"stream_options": null, ', '"a": 1, '])
def test_I9_an_object_of_very_many_members_is_not_rewritten(members: str) -> None:
    """Thousands of options in one request delayed all other requests by seconds."""
    assert asked("{" + members * MAX_MEMBERS + '"stream": true}') is None
    inner = '{"stream": true, "stream_options": {%s"include_usage": 0}}' % (members * MAX_MEMBERS)
    assert asked(inner) is None
