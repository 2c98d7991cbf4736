"""The work of the parser's callbacks grows in proportion to what a client sends.

Four times the input costs about four times the CPU time. A callback that copies what it has kept
so far costs sixteen times as much. The least of several measurements counts.
"""

import time
from collections.abc import Callable

import pytest

from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.parser import RequestParser
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import Fields

FEW, MANY = 6_000, 24_000
BETWEEN = 9.0  # linear: 4, quadratic: 16
BOUNDS = Bounds(max_target=1 << 20, max_header=1 << 24, max_fields=1 << 20)
HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Receiver:
    """Counts the bytes of a body."""

    def __init__(self) -> None:
        self.size = 0

    def body_piece(self, data: bytes) -> None:
        self.size += len(data)

    def body_flush(self) -> None: ...
    def body_end(self, trailers: Fields) -> None: ...
    def body_broken(self) -> None: ...


def lines(name: bytes) -> Callable[[int], list[bytes]]:
    return lambda count: [HEAD + (name + b": a\r\n") * count]


def chunks(count: int) -> list[bytes]:
    return [CHUNKED, b"8\r\n12345678\r\n" * count]


def target_in_pieces(count: int) -> list[bytes]:
    return [b"GET /", *[b"abcdefgh"] * count]


SHAPES: dict[str, Callable[[int], list[bytes]]] = {
    name.decode(): lines(name)
    for name in (
        b"TE", b"Via", b"Prefer", b"Accept", b"Upgrade", b"Connection", b"X-Api-Key", b"X-Other",
        b"X-Account-Id", b"X-Forwarded-For", b"Forwarded", b"tracestate", b"traceparent",
        b"Content-Encoding", b"Idempotency-Key", b"True-Client-IP", b"X_Account_Id", b"Host",
    )
}  # fmt: skip
SHAPES |= {"chunks": chunks, "target in pieces": target_in_pieces}


def cost(pieces: list[bytes], *, attached: bool) -> float:
    """CPU seconds of parsing, least of four."""
    times = []
    for _ in range(4):

        def arrived(request: Request) -> None:
            if attached:
                request.attach(Receiver())

        parser = RequestParser(BOUNDS, "192.0.2.1", lambda: 1.0, arrived)
        before = time.process_time()
        for piece in pieces:
            parser.feed(piece)
        times.append(time.process_time() - before)
        parser.close()
    return min(times)


@pytest.mark.parametrize("attached", [False, True], ids=["buffered", "received"])
@pytest.mark.parametrize("shape", SHAPES)
def test_security_08_and_10_four_times_the_input_is_about_four_times_the_work(
    shape: str, attached: bool
) -> None:
    few, many = (cost(SHAPES[shape](count), attached=attached) for count in (FEW, MANY))
    assert many < few * BETWEEN, f"{few * 1e3:.1f} ms and {many * 1e3:.1f} ms"


def test_security_10_trailers_are_kept_in_linear_time() -> None:
    few, many = (_trailer_cost(count) for count in (FEW, MANY))
    assert many < few * BETWEEN, f"{few * 1e3:.1f} ms and {many * 1e3:.1f} ms"


def _trailer_cost(count: int) -> float:
    times = []
    for _ in range(4):
        request = Request("192.0.2.1")
        before = time.process_time()
        for _ in range(count):
            request.add_trailer(b"x-a", b"x-a: b\r\n")
        times.append(time.process_time() - before)
    return min(times)
