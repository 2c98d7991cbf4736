"""The upstream is judged as strictly as the client: no answer is guessed at, none is shared."""

from collections.abc import Callable

import orjson
import pytest

from tests.support.http.bad_answers import CHUNKED_HEAD, CHUNKS, CUT_OFF, FIXED, HEADS, OK
from tests.support.http.recorder import Answer, echo
from tests.support.http.strict_http import Message
from tests.support.proxy_stage import Client, House, client

ASK = b"%b /bad HTTP/%b\r\nHost: api.test\r\n%b\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
HELLO = FIXED + b"\r\nhello"


def answering(data: bytes, *, close: bool = False) -> Callable[[Message], Answer]:
    """/bad gets these bytes, everybody else an echo."""
    bad = Answer(data, close)
    return lambda request: bad if request.target == b"/bad" else echo(request)


def send(connection: Client, method: bytes = b"GET", version: bytes = b"1.1",
         fields: bytes = b"") -> None:  # fmt: skip
    connection.send(ASK % (method, version, fields))


def ask(house: House, data: bytes, *, close: bool = False) -> tuple[Message | None, Client]:
    """One request that is answered with these bytes; what the client got, and its connection."""
    house.recorder.forget()
    house.recorder.answer = answering(data, close=close)
    with client(house) as connection:
        send(connection)
        response = connection.response()
        if response is None or response.values("connection") == [b"close"]:
            connection.to_the_end()
    return response, connection


def assert_502(response: Message | None) -> None:
    assert response is not None, "the client's connection was cut though nothing had been sent"
    assert response.status == 502
    assert response.values("content-type") == [b"application/problem+json"]
    assert orjson.loads(response.body)["status"] == 502


def assert_cut(connection: Client) -> None:
    """The client got a beginning and no end."""
    assert connection.response() is None
    assert connection.ended


def assert_not_reused(house: House) -> None:
    """The next request is answered with its own answer, on another upstream connection."""
    house.settle()
    house.recorder.answer = echo
    [(used, _)] = house.recorder.requests
    with client(house) as other:
        other.send(NEXT)
        response = other.response()
        assert other.to_the_end() == b""
    assert response is not None
    assert response.body == b"seen /next"
    house.settle()
    assert [number for number, _ in house.recorder.requests[1:]] != [used]


@pytest.mark.parametrize("raw", HEADS.values(), ids=HEADS)
def test_I6_a_head_that_is_not_strict_is_a_502(house: House, raw: bytes) -> None:
    response, _ = ask(house, raw, close=raw == HEADS["HTTP/0.9"])
    assert_502(response)
    assert_not_reused(house)


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_I6_bad_chunks_with_the_head_are_a_502(house: House, chunks: bytes) -> None:
    response, _ = ask(house, CHUNKED_HEAD + chunks)
    assert_502(response)
    assert_not_reused(house)


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_I6_bad_chunks_after_the_head_cut_the_connection(house: House, chunks: bytes) -> None:
    house.recorder.forget()
    house.recorder.answer = answering(CHUNKED_HEAD + b"2\r\nhi\r\n")
    with client(house) as connection:
        send(connection)
        connection.until(b"2\r\nhi\r\n")
        house.recorder.say(chunks)
        assert_cut(connection)
    assert_not_reused(house)


@pytest.mark.parametrize("raw", CUT_OFF.values(), ids=CUT_OFF)
def test_I6_an_answer_that_breaks_off_is_never_made_whole(house: House, raw: bytes) -> None:
    response, connection = ask(house, raw, close=True)
    if response is not None:
        assert_502(response)
    assert connection.ended
    assert_not_reused(house)


def test_I6_an_http10_client_sees_that_an_answer_broke_off(house: House) -> None:
    """It knows no chunks and would take a close for the end: only a reset tells it."""
    house.recorder.forget()
    house.recorder.answer = answering(CHUNKED_HEAD + b"5\r\nhello\r\n")
    with client(house) as connection:
        send(connection, version=b"1.0")
        connection.until(b"hello")
        house.recorder.say(b"", hang_up=True)
        connection.to_the_end()
        assert connection.was_reset


def test_an_answer_without_a_length_ends_with_the_connection(house: House) -> None:
    response, _ = ask(house, OK + b"\r\nhello", close=True)
    assert response is not None
    assert (response.status, response.body) == (200, b"hello")
    assert_not_reused(house)


def test_a_space_before_the_colon_is_removed_or_refused(house: House) -> None:
    """RFC 9112, section 5.1: a proxy removes it from a response; never passes it on."""
    response, _ = ask(house, FIXED + b"X-A : b\r\n\r\nhello")
    assert response is not None
    if response.status == 200:
        assert response.values("x-a") == [b"b"]
    else:
        assert_502(response)


@pytest.mark.parametrize("extra", [HELLO, b"x", b"\r\n\r\nHTTP/1.1 "], ids=["whole", "x", "part"])
def test_I6_a_second_answer_that_nobody_asked_for_reaches_nobody(
    house: House, extra: bytes
) -> None:
    response, connection = ask(house, FIXED + b"\r\nfirst" + extra)
    assert response is not None
    if response.status != 200:  # what comes with junk may be distrusted as a whole
        assert_502(response)
    else:
        assert response.body == b"first"
    assert connection.received == b""
    assert_not_reused(house)


def test_I6_an_answer_on_an_idle_connection_reaches_nobody(house: House) -> None:
    response, _ = ask(house, HELLO)
    assert response is not None
    assert response.body == b"hello"
    house.recorder.say(HELLO)
    assert_not_reused(house)


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello"),
        (b"HEAD", HELLO),
        (b"HEAD", CHUNKED_HEAD + b"5\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=["204 length", "204 chunked", "304", "HEAD", "HEAD chunked"],
)
def test_I6_a_body_where_none_may_be_reaches_nobody(
    house: House, method: bytes, raw: bytes
) -> None:
    house.recorder.forget()
    house.recorder.answer = answering(raw)
    with client(house) as connection:
        send(connection, method, fields=b"Connection: close\r\n")
        response = connection.response(method)
        assert response is not None
        assert response.status in (int(raw[9:12]), 502)
        assert connection.to_the_end() == b""
    assert_not_reused(house)


def test_early_hints_reach_an_http11_client(house: House) -> None:
    response, connection = ask(house, EARLY + HELLO)
    assert response is not None
    assert (response.status, response.body) == (200, b"hello")
    [hint] = connection.interim
    assert hint.status == 103
    assert hint.values("link") == [b"</a.css>; rel=preload"]


def test_interim_answers_do_not_reach_an_http10_client(house: House) -> None:
    """RFC 9110, section 15.2: such a client would take them for the answer."""
    house.recorder.forget()
    house.recorder.answer = answering(EARLY + HELLO)
    with client(house) as connection:
        send(connection, version=b"1.0")
        assert connection.to_the_end().endswith(b"\r\n\r\nhello")
        assert b" 103 " not in connection.received
        assert connection.received.startswith(b"HTTP/1.1 200 ")


def test_a_continue_that_nobody_asked_for_is_swallowed(house: House) -> None:
    response, connection = ask(house, b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO)
    assert response is not None
    assert response.status == 200
    assert connection.interim == []
