"""The client's side: one connection, its requests served in order, its waits bounded.

One task per connection serves its requests one after the other; parsing happens in
callbacks and only queues. A message that is malformed ends the connection after one answer.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol, cast

from sidecar.core.refusals.build import Refusal
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream import faults
from sidecar.proxy.downstream.faults import Fault
from sidecar.proxy.downstream.pacing import PacedConnection, peer_closed
from sidecar.proxy.downstream.parser import RequestParser
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.responses import JsonAnswer, json_bytes, refusal_bytes


class ConnectionOwner(Protocol):
    """What connections share: bounds, the handler, and the list of who is there."""

    bounds: Bounds
    draining: bool

    def opened(self, connection: "ClientConnection") -> bool: ...
    def closed(self, connection: "ClientConnection") -> None: ...
    def handle(self, request: Request, connection: "ClientConnection") -> Awaitable[bool]:
        """Serves one request; says whether the connection can take another."""
        ...

    def refuse(self, fault: Fault, request: Request | None, connection: "ClientConnection") -> None:
        """Answers a message that is wrong; `request` is as much of it as was understood."""
        ...

    def failed(
        self, error: Exception, request: Request | None, connection: "ClientConnection"
    ) -> None:
        """Something is wrong with ourselves. `request` is the one that was being served."""
        ...


class DownstreamTunnel(Protocol):
    """Who takes the client's bytes when they are no longer HTTP."""

    def from_client(self, data: bytes) -> None: ...
    def client_ended(self) -> None: ...


class ClientConnection(PacedConnection):
    """One connection from a client."""

    __slots__ = (
        "_ended", "_half_closed", "_lingering", "_parser", "_queue", "_rest", "_task", "_wake",
        "fault", "owner", "old", "tunnel", "serving",
    )  # fmt: skip

    def __init__(self, owner: ConnectionOwner, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(owner.bounds, loop)
        self.owner = owner
        self.serving = False
        self.old = False  # past its age: the next answer is its last
        self.tunnel: DownstreamTunnel | None = None
        self.fault: Fault | None = None  # what is wrong, until somebody has told the client
        self._parser: RequestParser | None = None
        self._queue: list[Request] = []  # mostly empty: a deque takes ten times as much
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False  # no more requests will be parsed
        self._half_closed = False
        self._lingering = False
        self._rest = b""  # came after a request that asks for an upgrade

    # transport → us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self.transport = cast("asyncio.Transport", transport)
        if not self.owner.opened(self):
            self.transport.abort()
            return
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else "unix"
        self._parser = RequestParser(self.bounds, address, self.loop.time, self._arrived)
        self.deadline = self.loop.time() + self.bounds.header_timeout
        self._task = self.loop.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.from_client(data)
            return
        if self._ended or self._parser is None:
            return
        parser = self._parser
        if self._rest or self._may_switch(parser.current):
            self._rest += data  # it may not be HTTP: whoever answers the upgrade decides
            self.pause_reading()
            return
        if not parser.pending and not self.serving and not self._queue:
            self.deadline = self.loop.time() + self.bounds.header_timeout
        try:
            self._rest = parser.feed(data)
        except Fault as fault:
            current = parser.current
            if current is not None and current.complete and current.close:
                self._ended = True  # what follows its last request is nobody's (RFC 9112, 9.6)
            else:
                self._fail(fault)
        else:
            current = parser.current
            if current is None or not current.received:
                return
            if current.complete:
                if len(self._queue) > 1 or self._rest:
                    self.pause_reading()
            elif not current.flowing:
                self.pause_reading()
            elif self.deadline:
                self.await_body(current)

    def _may_switch(self, current: Request | None) -> bool:
        """Whether the last request asks for an upgrade and has no answer yet."""
        return (
            current is not None
            and current.complete
            and bool(current.upgrade)
            and (self.serving or bool(self._queue))
        )

    def eof_received(self) -> bool:
        """The client sends no more. What it has asked is answered, if the answer comes soon:
        a client that is gone altogether looks the same until we write (RFC 9112, section 9.6)."""
        if self.tunnel is not None:
            self.tunnel.client_ended()
            return True
        if self._lingering or not (self.serving or self._queue) or self._waits():
            return False  # nobody is held who may not be there
        current = self._parser.current if self._parser else None
        if current is not None and not current.complete:
            return False  # the rest of a message will never come
        self._half_closed = self._ended = True
        if self.serving:
            self.deadline = self.loop.time() + self.bounds.half_close_timeout
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = self._ended = True
        parser, self._parser = self._parser, None
        if parser is not None:
            parser.close()
        self.owner.closed(self)
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()

    # what the bytes mean for the connection

    def _arrived(self, request: Request) -> None:
        if len(self._queue) >= self.bounds.max_pipelined:
            raise faults.malformed("Too many requests were sent at once.")
        self._queue.append(request)
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _fail(self, fault: Fault) -> None:
        self.fault = fault
        self._ended = True
        self.pause_reading()
        current = self._parser.current if self._parser else None
        if current is not None and current.received and not current.complete:
            current.close = True
            current.fail_body()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def overdue(self) -> None:
        """The sweeper's verdict: the client took too long. Ends the wait that is under way."""
        self.deadline = 0.0
        parser = self._parser
        if self.transport is None or parser is None or self._ended:
            self.abort()
        elif self.write_paused:
            if not self.reads_fast_enough():
                self.abort()  # what was sent is not whole
        elif self.tunnel is not None:
            self.tunnel.client_ended()
        elif parser.pending or (parser.current is not None and not parser.current.complete):
            self.too_slow()
        else:
            self._end()

    def too_slow(self) -> None:
        """What the client has begun to send is not waited for any longer."""
        self._fail(faults.too_slow())

    def _end(self) -> None:
        """Close between two requests. Who has not read the last answer by now is cut off."""
        assert self.transport is not None  # noqa: S101 - callers checked
        self._ended = True
        self.deadline = self.loop.time() + self.bounds.linger
        self.transport.close()

    def left_while_waiting(self) -> bool:
        """Whether the client has left while its call is held and the body not read."""
        if self._reading or self.transport is None or not self._waits():
            return False
        return peer_closed(self.transport)

    def _waits(self) -> bool:
        current = self._parser.current if self._parser else None
        return current is not None and current.waiting

    # the task

    async def _serve(self) -> None:
        request: Request | None = None
        try:
            while True:
                if not self._queue:
                    if self._ended:
                        break
                    self._wake = self.loop.create_future()
                    await self._wake
                    self._wake = None
                    continue
                request = self._queue.pop(0)
                if request.broken:
                    break  # a fault came with the head: nobody need be asked
                self.serving = True
                self.deadline = 0.0  # the client has done its part, for now
                if self._half_closed:
                    self.deadline = self.loop.time() + self.bounds.half_close_timeout
                if self.write_paused:
                    await self.wait_drained()
                keep = await self.owner.handle(request, self)
                self.serving = False
                if not keep:
                    break
                if self._rest or not self._reading:
                    self._resume_parsing()
                self._body_started = 0.0
                if not self._queue:
                    late = self._parser is not None and self._parser.pending
                    patience = self.bounds.header_timeout if late else self.bounds.idle_timeout
                    if request.discarding and not request.complete:
                        patience = self.bounds.body_timeout
                    self.deadline = self.loop.time() + patience
            if self.fault is not None:
                self._answer_fault(self.fault)
        except Exception as error:  # noqa: BLE001 - what nobody foresaw is told here, to the client, the log and the metrics, and ends no more than this connection
            self.owner.failed(error, request, self)
        finally:
            self.serving = False
            self._ended = True
            self._close()
            self._task = None  # it keeps what ended it, and that keeps us

    def _resume_parsing(self) -> None:
        rest, self._rest = self._rest, b""
        self.resume_reading()
        if rest:
            self.data_received(rest)

    def _answer_fault(self, fault: Fault) -> None:
        if self.transport is None or self.transport.is_closing():
            return  # the answer that was under way has been cut off for it
        self.owner.refuse(fault, self._parser.unfinished if self._parser else None, self)

    def _close(self) -> None:
        """Close; a client that may still be sending is given time to read our answer first,
        since a reset would take it away (RFC 9112, section 9.6)."""
        transport = self.transport
        if transport is None or self.lost:
            return
        self.deadline = self.loop.time() + self.bounds.idle_timeout  # to read the rest of it
        if transport.is_closing():
            return
        current = self._parser.current if self._parser else None
        sending = self.fault is not None or (current is not None and not current.complete)
        if not sending or self._half_closed or not transport.can_write_eof():
            transport.close()
            return
        self._lingering = True
        self.deadline = self.loop.time() + self.bounds.linger
        transport.write_eof()
        self.resume_reading()

    # what the exchange asks for

    @property
    def closing(self) -> bool:
        """Whether the answer to the current request is the connection's last."""
        return self.old or self.owner.draining

    @property
    def early(self) -> bytes:
        """What the client sent after a request for an upgrade, without waiting; taken."""
        rest, self._rest = self._rest, b""
        return rest

    def reply(self, refusal: Refusal, request_id: str, request: Request, *, close: bool) -> int:
        """Write one of our own answers. Returns the size of its body in bytes."""
        head, body = refusal_bytes(refusal, request_id, accept=request.accept, close=close)
        if request.method == "HEAD":  # the same fields, no body
            body = b""
        request.begun = request.answered = True
        self.write(head + body)
        return len(body)

    def tell(self, told: JsonAnswer, request_id: str, request: Request, *, close: bool) -> int:
        """The same for an answer that refuses nothing."""
        head, body = json_bytes(told.status, told.body, request_id, told.fields, close=close)
        if request.method == "HEAD":
            body = b""
        request.begun = request.answered = True
        self.write(head + body)
        return len(body)

    def close_if_idle(self) -> None:
        """For draining and age: between two requests it is closed, else the answer is the last."""
        self.old = True
        if self.transport is None or self.transport.is_closing():
            return
        if not self.serving and not self._queue:
            self._end()
        elif self.tunnel is not None and self.owner.draining:
            self.tunnel.client_ended()  # a tunnel does not end by itself
