"""Bytes after the end of a response: the response passes, whatever the reads, and nothing else.

RFC 9112, section 6.3 (1): a response to HEAD, a 204 and a 304 end with their heads. Real servers
send bodies with them, or more than Content-Length says.
"""

import contextlib

import pytest

from tests.support.http.recorder import Answer, echo
from tests.support.proxy_stage import SidecarThread, client

ASK = b"%b /bad HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"
CASES = {
    "bodyless-200-longer-than-length": (
        b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok", b"MORE"),
    "bodyless-200-and-another-response": (
        b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nbytes"),
    "bodyless-200-chunked": (
        b"GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"ok", b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 1\r\n\r\nx"),
    "bodyless-204-empty-chunk": (
        b"GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b"",
        b"0\r\n\r\n"),
    "bodyless-204-with-body": (
        b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", b"", b"{}"),
    "bodyless-304-with-body": (
        b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", b"", b"{}"),
    "bodyless-head-with-body": (
        b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"", b"ok"),
    "bodyless-head-chunked": (
        b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"",
        b"2\r\nok\r\n0\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "head", "body", "extra"), CASES.values(), ids=CASES)
def test_the_verdict_does_not_depend_on_segments(
    sidecar: SidecarThread, method: bytes, head: bytes, body: bytes, extra: bytes
) -> None:
    whole = head + (b"" if b"chunked" in head else body) + extra
    status = int(head.split(b" ")[1])
    for split in range(1, len(whole) + 1):
        sidecar.recorder.forget()
        sidecar.recorder.answer = (
            lambda request, split=split: (  # type: ignore[misc]
                Answer(whole[:split]) if request.target == b"/bad" else echo(request)
            )
        )
        with client(sidecar) as connection:
            connection.send(ASK % method)
            while not sidecar.recorder.requests:
                sidecar.settle()
            sidecar.settle()
            with contextlib.suppress(OSError, AssertionError):  # it is closed already
                sidecar.recorder.say(whole[split:])
            response = connection.response(method)
            assert response is not None, split
            assert (response.status, response.body) == (status, body), split
            assert response.values("x-evil") == []
            assert connection.to_the_end() == b"", split
        with client(sidecar) as other:
            other.send(b"GET /next HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
            response = other.response()
            assert response is not None, split
            assert response.body == b"seen /next", split
        sidecar.settle()
        numbers = [number for number, _ in sidecar.recorder.requests]
        assert numbers[0] != numbers[-1], split
