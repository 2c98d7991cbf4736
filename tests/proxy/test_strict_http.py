"""The strict parser of the tests: what it accepts, waits for and rejects."""

import pytest

from tests.support.http.recorder import flaws
from tests.support.http.strict_http import Incomplete, NotStrict, take_request, take_response

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (GET + b"\r\n", b""),
        (POST + b"Content-Length: 2\r\n\r\nhi", b"hi"),
        (POST + b"Content-Length:\t02 \r\n\r\nhi", b"hi"),
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", b"hi"),
        (CHUNKED + b'2 ; a = "b\\"c;" ;d\r\nhi\r\n000\r\nX: y\r\n\r\n', b"hi"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        (b"GET http://a/x HTTP/1.0\r\n\r\n", b""),
    ],
)
def test_a_strict_request_is_parsed_without_the_bytes_after_it(raw: bytes, body: bytes) -> None:
    message = take_request(raw + GET)
    assert (message.raw, message.body) == (raw, body)
    for cut in range(len(raw)):
        with pytest.raises(Incomplete):
            take_request(raw[:cut])


@pytest.mark.parametrize(
    "raw",
    [
        b"GET  /x HTTP/1.1\r\n", b"GET /x\r\n", b"GET /x HTTP/1.2\r\n", b"get\t/x HTTP/1.1\r\n",
        b"GET * HTTP/1.1\r\n", b"GET x HTTP/1.1\r\n", b"GET /x#y HTTP/1.1\r\n", b"\r\nGET /x",
        b"GET /x HTTP/1.1\nHost: a\r\n", b"GET /\xc3 HTTP/1.1\r\n", b"GET /x HTTP/1.1\rX",
        b"GET /x HTTP/1.1\r\n\r\n", GET + b"Host: a\r\n\r\n", GET + b"X : 1\r\n",
        GET + b" X: 1\r\n", GET + b"X: 1\r\n 2\r\n", GET + b"X: \x00\r\n", GET + b"X\r\n",
        GET + b": 1\r\n", GET + b"X: a\rb\r\n", GET + b"X: a\nb\r\n",
        POST + b"Content-Length: +1\r\n\r\n", POST + b"Content-Length: 1, 1\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        POST + b"Content-Length: \r\n\r\n",
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", POST + b"Transfer-Encoding: x\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED + b"\r\n", CHUNKED + b"0x2\r\n", CHUNKED + b"2;\r\n", CHUNKED + b"2 \r\n",
        CHUNKED + b"2\r\nhiX", CHUNKED + b"2\nhi", CHUNKED + b"0\r\nX : y\r\n",
        CHUNKED + b"FFFFFFFFFFFFFFFF\r\n", CHUNKED + b'2;a="b\r\n',
    ],
)  # fmt: skip
def test_a_request_that_is_not_strict_is_rejected(raw: bytes) -> None:
    with pytest.raises(NotStrict):
        take_request(raw)


@pytest.mark.parametrize(
    ("raw", "method", "ended", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"GET", False, b"hi"),
        (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n", b"HEAD", False, b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", b"GET", False, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", False, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"GET",
         False, b"a"),
        (b"HTTP/1.1 200 OK\r\n\r\nhi", b"GET", True, b"hi"),
    ],
)  # fmt: skip
def test_a_response_ends_as_the_rfc_defines(
    raw: bytes, method: bytes, ended: bool, body: bytes
) -> None:
    assert take_response(raw, method, ended=ended).body == body


@pytest.mark.parametrize(
    "raw",
    [b"HTTP/1.1 200\r\n\r\n", b"HTTP/1.1 20 OK\r\n", b"HTTP/2.0 200 OK\r\n", b"hello\r\n",
     b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"],
)  # fmt: skip
def test_a_response_that_is_not_strict_is_rejected(raw: bytes) -> None:
    with pytest.raises(NotStrict):
        take_response(raw, b"GET", ended=True)


def test_a_response_without_a_length_is_incomplete_before_the_close() -> None:
    with pytest.raises(Incomplete):
        take_response(b"HTTP/1.1 200 OK\r\n\r\nhi", b"GET", ended=False)


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (GET + b"\r\n", 0),
        (CHUNKED + b"a\r\n0123456789\r\n0\r\n\r\n", 0),
        (b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n", 1),
        (POST + b"Content-Length: 02\r\n\r\nhi", 1),
        (CHUNKED + b"2;a\r\nhi\r\n00\r\nX: y\r\n\r\n", 2),
        (CHUNKED + b"0\r\nX: y\r\nAuthorization: y\r\nContent-Length: 1\r\n\r\n", 2),
        (GET + b"Connection: close\r\nTE: trailers\r\n\r\n", 2),
        (GET + b"Connection: TE, Upgrade\r\nTE: trailers\r\nUpgrade: websocket\r\n\r\n", 0),
        (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 1),
        (GET + b"Connection: Upgrade\r\n\r\n", 1),
        (GET + b"Connection: X-A\r\n\r\n", 1),
        (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", 0),
        (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx", 1),
    ],
)
def test_ambiguous_framing_of_a_gateway_is_flagged(raw: bytes, count: int) -> None:
    assert len(flaws(take_request(raw))) == count
