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
NO_METHOD = "The request line does not begin with a known method."
TWO_WAYS = "The body is framed in two ways: Content-Length and Transfer-Encoding."


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (b"BREW /pot" + END, 501, METHOD),
        (b"get /x" + END, 501, METHOD),
        (b"GETX /x" + END, 501, METHOD),
        (b"\r\nX!#$%&'*+-.^_`|~9 /x" + END, 501, METHOD),
        (b"DESCRIBE /x" + END, 501, METHOD),  # a method of RTSP, which llhttp knows
        (b"GE(T /x" + END, 400, NO_METHOD),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, NO_METHOD),  # TLS
        (b"SSH-2.0-OpenSSH_9.9\r\n", 400, NO_METHOD),
        (b"BREW /pot\r\nHost: a\r\n\r\n", 400, NO_METHOD),
        (b"BREW /a pot" + END, 400, NO_METHOD),
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


def test_a_method_that_arrives_in_pieces_is_malformed(sidecar: SidecarThread) -> None:
    assert answered(sidecar, b"GE", b"TTER /x" + END) == (400, NO_METHOD)


def test_bytes_after_a_valid_request_are_judged_separately(sidecar: SidecarThread) -> None:
    good = b"GET /warm HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n"
    with client(sidecar) as connection:
        connection.send(good + b"BREW /pot" + END)
        first, second = connection.response(), connection.response()
        assert first is not None and second is not None
        assert (first.status, second.status) == (200, 400)  # its start is unknown
        assert second.body.startswith(
            b"{"
        )  # the Accept field of the first request does not apply to it


@pytest.mark.parametrize(
    "head",
    [
        b"POST /x HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\nContent-Length: 2000000\r\n\r\n",
        b"GET /x HTTP/1.1\r\nAccept: text/plain\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nAccept: text/plain\r\nAccept: a/b\r\nHost: a\r\nA B: 1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\nX-Sl",  # an incomplete head: 408
    ],
    ids=["413", "400", "two lines", "431", "408"],
)
def test_a_fault_is_text_for_a_client_that_accepts_only_text(
    sidecar: SidecarThread, head: bytes
) -> None:
    with client(sidecar) as connection:
        connection.send(head)
        answer = connection.response()
    assert answer is not None
    assert (b"Content-Type", b"text/plain; charset=utf-8") in answer.fields
    assert answer.body.startswith(b"%d " % answer.status)


def test_a_fault_of_a_HEAD_has_no_body(sidecar: SidecarThread) -> None:
    with client(sidecar) as connection:
        connection.send(b"HEAD /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        answer = connection.response(b"HEAD")
        assert answer is not None and answer.status == 400
        assert connection.to_the_end() == b""
