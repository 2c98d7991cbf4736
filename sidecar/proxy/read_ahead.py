"""Reads the beginning of a request's body before the decision, and gives it back untouched."""

import asyncio

from sidecar.bodies import read_request
from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading, told_by_fields
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import Fields
from sidecar.proxy.responses import CONTINUE


class BodyBroken(Exception):
    """The client's body is malformed or did not come in time. The connection knows the fault."""


class BodyCollector:
    """Keeps `BodyReceiver` until `limit` bytes or the end of the body have come."""

    def __init__(self, limit: int) -> None:
        self.parts: list[bytes] = []
        self.complete = False
        self._left = limit
        self._done = asyncio.get_running_loop().create_future()

    def body_piece(self, data: bytes) -> None:
        """Keep a piece."""
        self.parts.append(data)
        self._left -= len(data)

    def body_flush(self) -> None:
        """One read of the client is in."""
        if self._left < 0 and not self._done.done():
            self._done.set_result(None)

    def body_end(self, _trailers: Fields) -> None:
        """All of it is in."""
        self.complete = True
        if not self._done.done():
            self._done.set_result(None)

    def body_broken(self) -> None:
        """The rest will not come."""
        if not self._done.done():
            self._done.set_exception(BodyBroken())

    async def wait(self) -> None:
        """Until there is enough. Raises BodyBroken."""
        await self._done


async def read_ahead(
    request: Request, connection: ClientConnection, limit: int
) -> tuple[bytes, bool]:
    """Up to about `limit` bytes of the body, and whether that is all of it. They are held for
    the exchange, as if nobody had looked. Raises BodyBroken.

    A body announced as longer is not read at all; `Expect: 100-continue` is answered here,
    before the decision, since the decision depends on the body.
    """
    if not request.has_body or (request.content_length or 0) > limit:
        return b"", not request.has_body
    if request.broken:
        raise BodyBroken
    if not request.complete:
        collector = BodyCollector(limit)
        for held in request.take_buffered():
            collector.body_piece(held)
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
    body = b"".join(request.held)
    return body, request.complete


def reading_of(
    request: Request, found: Entitlement, body: bytes = b"", *, complete: bool = True
) -> Reading:
    """What a request tells of its cost: its fields and, if the entitlement wants to look, its
    body. `complete`: that is all of the body."""
    estimates = found.estimates
    told = told_by_fields(((m, r.path) for m, r in estimates), request.named_fields())
    if not found.read_up_to:
        return Reading.of(told)
    read = read_request(
        body, request.content_type, request.content_encoding, estimates, complete=complete
    )
    return Reading.of(told | dict(read.values) | dict(read.unreadable))
