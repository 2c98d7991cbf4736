"""Responses are checked as strictly as requests: an ambiguous response is never relayed."""

from collections.abc import Callable

import orjson
import pytest

from tests.support.http.bad_responses import CHUNKED_HEAD, CHUNKS, CUT_OFF, FIXED, HEADS, OK
from tests.support.http.recorder import Answer, echo
from tests.support.http.strict_http import Message
from tests.support.proxy_stage import Client, SidecarThread, client

ASK = b"%b /bad HTTP/%b\r\nHost: api.test\r\n%b\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
HELLO = FIXED + b"\r\nhello"


def answering(data: bytes, *, close: bool = False) -> Callable[[Message], Answer]:
    """An upstream that sends these bytes for /bad, and an echo for other paths."""
    bad = Answer(data, close)
    return lambda request: bad if request.target == b"/bad" else echo(request)


def send(connection: Client, method: bytes = b"GET", version: bytes = b"1.1",
         fields: bytes = b"") -> None:  # fmt: skip
    connection.send(ASK % (method, version, fields))


def ask(
    sidecar: SidecarThread, data: bytes, *, close: bool = False
) -> tuple[Message | None, Client]:
    """Send a request that gets these bytes. Returns the client's response and connection."""
    sidecar.recorder.forget()
    sidecar.recorder.answer = answering(data, close=close)
    with client(sidecar) as connection:
        send(connection)
        response = connection.response()
        if response is None or response.values("connection") == [b"close"]:
            connection.to_the_end()
    return response, connection


def assert_502(response: Message | None) -> None:
    assert response is not None, "the client's connection was cut before any response"
    assert response.status == 502
    assert response.values("content-type") == [b"application/problem+json"]
    assert orjson.loads(response.body)["status"] == 502


def assert_cut(connection: Client) -> None:
    """Check that the client got the beginning of a response and no end."""
    assert connection.response() is None
    assert connection.ended


def assert_not_reused(sidecar: SidecarThread) -> None:
    """Check that the next request gets its own response, on another upstream connection."""
    sidecar.settle()
    sidecar.recorder.answer = echo
    [(used, _)] = sidecar.recorder.requests
    with client(sidecar) as other:
        other.send(NEXT)
        response = other.response()
        assert other.to_the_end() == b""
    assert response is not None
    assert response.body == b"seen /next"
    sidecar.settle()
    assert [number for number, _ in sidecar.recorder.requests[1:]] != [used]


@pytest.mark.parametrize("raw", HEADS.values(), ids=HEADS)
def test_I6_an_invalid_response_head_is_a_502(sidecar: SidecarThread, raw: bytes) -> None:
    response, _ = ask(sidecar, raw, close=raw == HEADS["HTTP/0.9"])
    assert_502(response)
    assert_not_reused(sidecar)


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_I6_bad_chunks_with_the_head_are_a_502(sidecar: SidecarThread, chunks: bytes) -> None:
    response, _ = ask(sidecar, CHUNKED_HEAD + chunks)
    assert_502(response)
    assert_not_reused(sidecar)


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_I6_bad_chunks_after_the_head_cut_the_connection(
    sidecar: SidecarThread, chunks: bytes
) -> None:
    sidecar.recorder.forget()
    sidecar.recorder.answer = answering(CHUNKED_HEAD + b"2\r\nhi\r\n")
    with client(sidecar) as connection:
        send(connection)
        connection.until(b"2\r\nhi\r\n")
        sidecar.recorder.say(chunks)
        assert_cut(connection)
    assert_not_reused(sidecar)


@pytest.mark.parametrize("raw", CUT_OFF.values(), ids=CUT_OFF)
def test_I6_a_truncated_response_is_never_completed(sidecar: SidecarThread, raw: bytes) -> None:
    response, connection = ask(sidecar, raw, close=True)
    if response is not None:
        assert_502(response)
    assert connection.ended
    assert_not_reused(sidecar)


def test_I6_an_http10_client_sees_that_a_response_is_truncated(sidecar: SidecarThread) -> None:
    """HTTP/1.0 has no chunks, and a close ends a response: only a reset shows the fault."""
    sidecar.recorder.forget()
    sidecar.recorder.answer = answering(CHUNKED_HEAD + b"5\r\nhello\r\n")
    with client(sidecar) as connection:
        send(connection, version=b"1.0")
        connection.until(b"hello")
        sidecar.recorder.say(b"", hang_up=True)
        connection.to_the_end()
        assert connection.was_reset


def test_a_response_without_a_length_ends_with_the_connection(sidecar: SidecarThread) -> None:
    response, _ = ask(sidecar, OK + b"\r\nhello", close=True)
    assert response is not None
    assert (response.status, response.body) == (200, b"hello")
    assert_not_reused(sidecar)


def test_a_space_before_the_colon_is_removed_or_refused(sidecar: SidecarThread) -> None:
    """RFC 9112, section 5.1: a proxy removes it from a response."""
    response, _ = ask(sidecar, FIXED + b"X-A : b\r\n\r\nhello")
    assert response is not None
    if response.status == 200:
        assert response.values("x-a") == [b"b"]
    else:
        assert_502(response)


@pytest.mark.parametrize("extra", [HELLO, b"x", b"\r\n\r\nHTTP/1.1 "], ids=["whole", "x", "part"])
def test_I6_a_second_response_to_one_request_is_dropped(
    sidecar: SidecarThread, extra: bytes
) -> None:
    response, connection = ask(sidecar, FIXED + b"\r\nfirst" + extra)
    assert response is not None
    if response.status != 200:  # a response with extra bytes may be dropped as a whole
        assert_502(response)
    else:
        assert response.body == b"first"
    assert connection.received == b""
    assert_not_reused(sidecar)


def test_I6_a_response_on_an_idle_connection_is_dropped(sidecar: SidecarThread) -> None:
    response, _ = ask(sidecar, HELLO)
    assert response is not None
    assert response.body == b"hello"
    sidecar.recorder.say(HELLO)
    assert_not_reused(sidecar)


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
def test_I6_a_body_that_is_not_allowed_is_dropped(
    sidecar: SidecarThread, method: bytes, raw: bytes
) -> None:
    sidecar.recorder.forget()
    sidecar.recorder.answer = answering(raw)
    with client(sidecar) as connection:
        send(connection, method, fields=b"Connection: close\r\n")
        response = connection.response(method)
        assert response is not None
        assert response.status in (int(raw[9:12]), 502)
        assert connection.to_the_end() == b""
    assert_not_reused(sidecar)


def test_early_hints_reach_an_http11_client(sidecar: SidecarThread) -> None:
    response, connection = ask(sidecar, EARLY + HELLO)
    assert response is not None
    assert (response.status, response.body) == (200, b"hello")
    [hint] = connection.interim
    assert hint.status == 103
    assert hint.values("link") == [b"</a.css>; rel=preload"]


def test_interim_responses_do_not_reach_an_http10_client(sidecar: SidecarThread) -> None:
    """RFC 9110, section 15.2: such a client would take one for the final response."""
    sidecar.recorder.forget()
    sidecar.recorder.answer = answering(EARLY + HELLO)
    with client(sidecar) as connection:
        send(connection, version=b"1.0")
        assert connection.to_the_end().endswith(b"\r\n\r\nhello")
        assert b" 103 " not in connection.received
        assert connection.received.startswith(b"HTTP/1.1 200 ")


def test_an_unexpected_100_continue_is_dropped(sidecar: SidecarThread) -> None:
    response, connection = ask(sidecar, b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO)
    assert response is not None
    assert response.status == 200
    assert connection.interim == []


@pytest.mark.parametrize("line", [b"HTTP/1.1 099 Odd", b"HTTP/1.1 000 Odd"])
def test_a_status_below_100_is_not_relayed_as_an_interim_response(
    sidecar: SidecarThread, line: bytes
) -> None:
    """RFC 9110, section 15: valid are 100 to 599; a status has three digits."""
    response, _ = ask(sidecar, line + b"\r\nContent-Length: 2\r\n\r\nok", close=True)
    assert_502(response)
