"""The work of an upstream connection's callbacks grows in proportion to what the API sends.

As in `downstream/test_linear_callbacks.py`: four times the input costs about four times the CPU
time, and a callback that copies what it has kept so far costs sixteen times as much.
"""

import gc
import time
from collections.abc import Callable

import pytest

from sidecar.core.settlement import OutcomeReason
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.headers import Fields
from sidecar.proxy.upstream.connection import UpstreamConnection
from sidecar.proxy.upstream.receiver import ResponseHead
from tests.proxy.downstream.test_linear_callbacks import BETWEEN, FEW, MANY

BOUNDS = Bounds(max_response_header=1 << 24)
LINE = b"HTTP/1.1 200 OK\r\n"
CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"


class Pool:
    """Implements `ConnectionPool`."""

    bounds = BOUNDS

    def now(self) -> float:
        return 1.0

    def remove(self, connection: UpstreamConnection) -> None: ...


class Response:
    """Implements `Receiver`: keeps the head, and the size of the body."""

    method, upgrade = "GET", b"websocket"
    interim = 0

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.size = 0
        self.trailers: Fields | None = None  # of a complete response
        self.failure = ""

    def response_head(self, head: ResponseHead) -> None:
        self.head = head

    def response_interim(self, head: ResponseHead) -> None:
        assert head.status < 200
        self.interim += 1

    def response_body(self, data: bytes) -> None:
        self.size += len(data)

    def response_end(self, trailers: Fields) -> None:
        self.trailers = trailers

    def response_failed(self, reason: OutcomeReason, detail: str) -> None:
        self.failure = f"{reason}: {detail}"

    def response_continue(self) -> None: ...
    def response_flush(self) -> None: ...
    def response_switched(self, rest: bytes) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...
    def preempt(self) -> None: ...

    def client_stall_s(self, now: float) -> float:
        return now * 0


def received(pieces: list[bytes]) -> tuple[float, Response]:
    """The CPU seconds of a response, and the response."""
    connection, response = UpstreamConnection(Pool()), Response()
    connection.start(response, b"", 0.0)
    before = time.process_time()
    for piece in pieces:
        connection.data_received(piece)
    taken = time.process_time() - before
    assert (response.failure, response.trailers) == ("", [])
    return taken, response


def lines(name: bytes, status: bytes = b"200") -> Callable[[int], list[bytes]]:
    end = b"Content-Length: 0\r\n\r\n"
    return lambda count: [b"HTTP/1.1 %b OK\r\n" % status + (name + b": a\r\n") * count + end]


def phrase_in_pieces(count: int) -> list[bytes]:
    return [b"HTTP/1.1 200 O", *[b"a"] * (count // 4), b"K\r\nContent-Length: 0\r\n\r\n"]


def value_in_pieces(count: int) -> list[bytes]:
    return [LINE + b"X-A: ", *[b"a"] * count, b"\r\nContent-Length: 0\r\n\r\n"]


def chunks(count: int) -> list[bytes]:
    return [CHUNKED, b"8\r\n12345678\r\n" * count + b"0\r\n\r\n"]


def chunks_in_pieces(count: int) -> list[bytes]:
    return [CHUNKED, *[b"1\r\n", b"a\r\n"] * count, b"0\r\n\r\n"]


def body_in_pieces(count: int) -> list[bytes]:
    return [LINE + b"Content-Length: %d\r\n\r\n" % count, *[b"a"] * count]


def interim(count: int) -> list[bytes]:
    return [b"HTTP/1.1 103 Early Hints\r\n\r\n" * count, LINE + b"Content-Length: 0\r\n\r\n"]


SHAPES: dict[str, Callable[[int], list[bytes]]] = {
    name.decode(): lines(name)
    for name in (
        b"Connection", b"Content-Encoding", b"Content-Type", b"Date", b"Set-Cookie", b"Trailer",
        b"Upgrade", b"X-Other",
    )
}  # fmt: skip
SHAPES["Upgrade of a 426"] = lines(b"Upgrade", b"426")
for shape in (phrase_in_pieces, value_in_pieces, chunks, chunks_in_pieces, body_in_pieces, interim):
    SHAPES[shape.__name__.replace("_", " ")] = shape


@pytest.mark.parametrize("shape", SHAPES)
def test_security_08_and_10_four_times_the_response_is_about_four_times_the_work(
    shape: str,
) -> None:
    gc.collect()
    few, many = (min(received(SHAPES[shape](n))[0] for _ in range(4)) for n in (FEW, MANY))
    assert many < few * BETWEEN, f"{few * 1e3:.1f} ms and {many * 1e3:.1f} ms"


def test_a_head_in_pieces_is_the_whole_head() -> None:
    encodings = b"Content-Encoding: gzip\r\nContent-Encoding: br\r\n"
    whole = b"HTTP/1.1 200 All Is Well\r\n" + encodings + b"Content-Length: 1\r\n\r\na"
    for step in range(1, len(whole) + 1):
        pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
        _, response = received(pieces)
        assert response.head is not None
        assert response.head.phrase == b"All Is Well"
        assert response.head.content_encoding == b"gzip,br"
        assert response.size == 1
