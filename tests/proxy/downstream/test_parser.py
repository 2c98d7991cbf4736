"""Bounds of one message: those before it on the connection do not count."""

import pytest

from sidecar.proxy.bounds import FRAMING, FREE_CHUNKS, Bounds
from sidecar.proxy.downstream.faults import Fault
from sidecar.proxy.downstream.parser import RequestParser
from sidecar.proxy.downstream.request import Request

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n%bTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = HEAD % b""


class Parsing:
    """A connection on which no time passes."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.requests: list[Request] = []
        self.parser = RequestParser(
            bounds or Bounds(), "192.0.2.1", lambda: 1.0, self.requests.append
        )

    def complete(self, message: bytes) -> bool:
        """Parse a message; whether it is complete. Raises Fault."""
        self.parser.feed(message)
        return self.requests[-1].complete


def test_the_chunks_of_each_body_are_counted_from_its_start() -> None:
    parsing = Parsing()
    body = b"1\r\na\r\n" * FREE_CHUNKS + b"0\r\n\r\n"
    for _ in range(3):
        assert parsing.complete(CHUNKED + body)
    with pytest.raises(Fault, match="too many tiny chunks"):
        parsing.complete(CHUNKED + b"1\r\na\r\n" * FREE_CHUNKS * 2)


def test_the_framing_of_each_body_is_counted_from_its_start() -> None:
    parsing = Parsing()
    long = FRAMING * 3 // 4
    body = b"1;n=" + b"v" * long + b"\r\na\r\n0\r\n\r\n"
    for _ in range(3):
        parsing.parser.feed(CHUNKED)
        assert parsing.complete(body)
    parsing.parser.feed(CHUNKED)
    with pytest.raises(Fault, match="too many extensions"):
        parsing.complete(body.removesuffix(b"0\r\n\r\n") + body)


def test_the_lines_of_trailers_are_counted_apart_from_those_of_the_head() -> None:
    lines = b"a: b\r\n"
    for head, trailers, allowed in ((15, 15, True), (15, 20, True), (0, 21, False)):
        parsing = Parsing(Bounds(max_fields=20))
        message = HEAD % (lines * head) + b"0\r\n" + lines * trailers + b"\r\n"
        if allowed:
            assert parsing.complete(message)
            assert len(parsing.requests[0].trailers) == trailers
        else:
            with pytest.raises(Fault):
                parsing.complete(message)
