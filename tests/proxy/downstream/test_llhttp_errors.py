"""Replies to invalid requests: the sidecar's own texts, in the content type that is accepted."""

import json

import pytest

from tests.support.proxy_stage import SidecarThread, client

LLHTTP = ("pause", "upgrade", "span", "callback", "pri/", "rtsp", "ice/", "encountered", "expected")
END = b" HTTP/1.1\r\nHost: a\r\n\r\n"


def answered(sidecar: SidecarThread, *sent: bytes) -> tuple[int, str]:
    """The status and detail of a reply that closes the connection."""
    with client(sidecar) as connection:
        connection.send(*sent)
        answer = connection.response(b"GET")
        assert answer is not None
        assert connection.to_the_end() == b""
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status
    return answer.status, problem["detail"]


METHOD = "The request method is unknown."
VERSION = "Only HTTP/1.1 and HTTP/1.0 are supported."
NO_VERSION = "The request line does not end in HTTP/1.1."
PROXY = "The connection begins with a PROXY protocol header, which is not supported."
TLS = "The connection begins with a TLS handshake, and this port has no TLS: use http://."
NO_METHOD = "The request line does not begin with a known method."
TWO_WAYS = "The body is framed in two ways: Content-Length and Transfer-Encoding."


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (b"get /x" + END, 501, METHOD),
        (b"\r\nX!#$%&'*+-.^_`|~9 /x" + END, 501, METHOD),
        (b"DESCRIBE /x" + END, 501, METHOD),  # a method of RTSP, which llhttp knows
        (b"GE(T /x" + END, 400, NO_METHOD),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, TLS),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /x" + END, 400, PROXY),
        (b"PROXY UNKNOWN\r\nGET /x" + END, 400, PROXY),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x7f\x00\x00\x01" * 3, 400, PROXY),
        (b"Version-Control /x" + END, 501, METHOD),
        (b"SSH-2.0-OpenSSH_9.9\r\n", 400, NO_METHOD),
        (b"BREW /pot\r\nHost: a\r\n\r\n", 400, NO_VERSION),
        (b"BREW /a pot" + END, 400, NO_VERSION),
        (b"BREW" + b"Y" * 64 + b" /pot" + END, 400, NO_METHOD),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, VERSION),
        (b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n", 505, VERSION),
        (b"GET /x HTTP/9.9\r\nHost: a\r\n\r\n", 505, VERSION),
        (b"GET /x HTTQ/1.1\r\nHost: a\r\n\r\n", 400, "The request line does not end in HTTP/1.1."),
        (b"GET /x\r\n\r\n", 400, "The request line does not end in HTTP/1.1."),
        (b"GET /x\x7f" + END, 400, "The request target is not valid."),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nA B: 1\r\n\r\n", 400, "A header field is not valid."),
        (b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n", 400,
         "A line of white space follows the request line."),
        (b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n", 400,
         "Content-Length is not a plain number."),
        (b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
         400, TWO_WAYS),
        (b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501,
         "The only supported transfer coding is chunked, applied once."),
        (b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400,
         "The chunked body is not valid."),
        (b"GET /x HTTP/1.1\nHost: a\n\n", 400, None),
    ],
)  # fmt: skip
def test_I10_an_invalid_request_is_explained(
    sidecar: SidecarThread, sent: bytes, status: int, detail: str | None
) -> None:
    result = answered(sidecar, sent)
    assert result[0] == status
    assert result[1] == (detail or result[1])
    assert not [word for word in LLHTTP if word in result[1].lower()]
