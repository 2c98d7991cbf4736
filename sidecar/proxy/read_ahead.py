"""Reads the beginning of a body before the decision, and puts it back unchanged."""

import asyncio

from sidecar.bodies import decoded_size, read_request
from sidecar.core.costs import Unreadable, units_of
from sidecar.core.json_cost import Formula
from sidecar.core.json_path import JsonPath
from sidecar.core.model import Entitlement
from sidecar.core.overload.shedder import InFlightRequest
from sidecar.core.readings import Reading, read_fields
from sidecar.proxy.body_budget import BodyBudget
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import Fields
from sidecar.proxy.responses import CONTINUE


class BodyBroken(Exception):
    """The client's body is malformed or late. The connection has the fault."""


class BodyCollector:
    """Implements `BodyReceiver`, up to about `limit` bytes or the end of the body."""

    def __init__(self, limit: int) -> None:
        self.parts: list[bytes] = []
        self.complete = False
        self._left = limit
        self._done = asyncio.get_running_loop().create_future()

    def body_piece(self, data: bytes) -> None:
        """Keep body bytes."""
        self.parts.append(data)
        self._left -= len(data)

    def body_flush(self) -> None:
        """End the wait if the limit is exceeded."""
        if self._left < 0 and not self._done.done():
            self._done.set_result(None)

    def body_end(self, _trailers: Fields) -> None:
        """End the wait: the body is complete."""
        self.complete = True
        if not self._done.done():
            self._done.set_result(None)

    def body_broken(self) -> None:
        """End the wait with BodyBroken."""
        if not self._done.done():
            self._done.set_exception(BodyBroken())

    async def wait(self) -> None:
        """Wait for the limit or the end of the body. Raises BodyBroken."""
        await self._done


async def read_ahead(
    request: Request, connection: ClientConnection, limit: int
) -> tuple[bytes, bool]:
    """Read up to about `limit` bytes of the body. Returns them, and whether the body is complete.

    The bytes stay in the request's buffer for the exchange. A body that is announced as longer is
    not read at all. `Expect: 100-continue` is answered here, before the decision, since the
    decision depends on the body. Raises BodyBroken.
    """
    if not request.has_body or (request.content_length or 0) > limit:
        return b"", not request.has_body
    if request.broken:
        raise BodyBroken
    if not request.complete:
        collector = BodyCollector(limit)
        for piece in request.take_buffered():
            collector.body_piece(piece)
        collector.body_flush()  # the client may send no more before it has a response
        if request.expects_continue and not request.body_bytes:
            connection.write(CONTINUE)
        request.expects_continue = False
        request.attach(collector)
        connection.await_body(request)
        connection.resume_reading()
        try:
            await collector.wait()
        finally:
            request.detach()
            connection.deadline = 0.0
        if not request.complete:
            connection.hold_body()
        request.put_back(collector.parts)
    return b"".join(request.buffered), request.complete


async def read_small_body(
    request: Request,
    connection: ClientConnection,
    budget: BodyBudget,
    account: str,
    in_flight: InFlightRequest,
) -> int:
    """Read a small body whole, so that a slow upload does not keep an upstream connection.

    Returns the bytes that the caller has to free in `budget`: 0 if the body is not read.

    A body without a length is not: its client may wait for the response to its beginning. Nor is
    one that waits for 100 (Continue), which is the API's to send. Raises BodyBroken.
    """
    size = request.content_length or 0
    if size > budget.largest or request.expects_continue or not budget.take(account, size):
        return 0
    sent_at, in_flight.sent_at = in_flight.sent_at, None  # the upstream has no request yet
    try:
        await read_ahead(request, connection, size)
    except BaseException:
        budget.free(account, size)
        raise
    finally:
        in_flight.sent_at = sent_at
    return size


def reading_of(
    request: Request, entitlement: Entitlement, body: bytes = b"", *, complete: bool = True
) -> Reading:
    """What the request says of its costs, in its fields and in its body.

    `body` is the beginning of the body, or all of it if `complete`.
    """
    estimates = entitlement.estimates
    values = read_fields(((m, r.path) for m, r in estimates), request.named_fields())
    if not entitlement.read_up_to:
        return Reading.of(values)
    read = read_request(body, request.content_encoding, estimates, complete=complete)
    values |= dict(read.values) | dict(read.unreadable)
    by_size = [(m, r) for m, r in estimates if r.bytes_per_unit]
    if not by_size:
        return Reading.of(values)
    size, why = _size_of(request, body, complete=complete)
    counted = {meter: units_of(size, reserve.bytes_per_unit) for meter, reserve in by_size}
    for meter, reserve in by_size:
        if reserve.path is None:
            unknown = why if request.content_encodings else None  # else it settles at its size
            values[meter] = unknown or counted[meter]
    reading = Reading.of(values)
    grows = why is Unreadable.TOO_LARGE
    return Reading(reading.values, reading.unreadable, None, counted, grows)


def needs_body(request: Request, entitlement: Entitlement) -> bool:
    """Whether the body has to be read for the estimates: a known size is enough for some."""
    if not entitlement.read_up_to or not request.has_body:
        return False
    if request.content_length is None or request.content_encodings:
        return True
    return any(isinstance(r.path, JsonPath | Formula) for _, r in entitlement.estimates)


def _size_of(request: Request, body: bytes, *, complete: bool) -> tuple[int, Unreadable | None]:
    """The size of the request's body without its coding; the least that it has, and why."""
    size = max(request.content_length or 0, request.body_bytes)
    if not request.has_body:
        return 0, None
    if not request.content_encodings:
        known = complete or request.content_length is not None
        return size, None if known else Unreadable.TOO_LARGE
    decoded = decoded_size(body, request.content_encoding) if complete else Unreadable.TOO_LARGE
    return (decoded, None) if isinstance(decoded, int) else (size, decoded)
