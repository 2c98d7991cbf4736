"""The client's side: one connection, its requests served in order, its waits bounded.

One task per connection serves its requests one after the other; parsing happens in
callbacks and only queues. A message that is malformed ends the connection after one answer.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Awaitable
from typing import Protocol, cast

from sidecar.core.refusals import Refusal, http_problem
from sidecar.proxy import faults
from sidecar.proxy.faults import Fault
from sidecar.proxy.limits import Bounds
from sidecar.proxy.parsing import RequestParser
from sidecar.proxy.replies import refusal_bytes
from sidecar.proxy.request import Request
from sidecar.proxy.unread import unread

RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close at once, by a reset


class Front(Protocol):
    """What connections share: bounds, the handler, and the list of who is there."""

    bounds: Bounds
    draining: bool

    def opened(self, connection: "ClientConnection") -> bool: ...
    def closed(self, connection: "ClientConnection") -> None: ...
    def new_id(self) -> str: ...
    def handle(self, request: Request, connection: "ClientConnection") -> Awaitable[bool]:
        """Serves one request; says whether the connection can take another."""
        ...


class Flow(Protocol):
    """Who wants to know when the client is slower than what is written to it."""

    def client_writable(self, writable: bool) -> None: ...


class Raw(Protocol):
    """Who takes the client's bytes when they are no longer HTTP."""

    def from_client(self, data: bytes) -> None: ...
    def client_ended(self) -> None: ...


class ClientConnection(asyncio.Protocol):
    """One connection from a client."""

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self.front = front
        self.bounds = front.bounds
        self.transport: asyncio.Transport | None = None
        self.deadline = 0.0  # loop time at which the sweeper loses patience; 0: never
        self.serving = False
        self.lost = False
        self.old = False  # past its age: the next answer is its last
        self.flow: Flow | None = None
        self.raw: Raw | None = None
        self.write_paused = False
        self.fault: Fault | None = None  # what is wrong, until somebody has told the client
        self.loop = loop
        self._parser: RequestParser | None = None
        self._queue: deque[Request] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._unread = 0  # by the client, when we last looked
        self._task: asyncio.Task[None] | None = None
        self._reading = True
        self._ended = False  # no more requests will be parsed
        self._half_closed = False
        self._lingering = False
        self._rest = b""  # came after a request that asks for an upgrade
        self._body_started = 0.0
        self._body_from = 0

    # transport → us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self.transport = cast("asyncio.Transport", transport)
        if not self.front.opened(self):
            self.transport.abort()
            return
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else "unix"
        self._parser = RequestParser(self.bounds, address, self.loop.time, self._arrived)
        self.deadline = self.loop.time() + self.bounds.header_timeout
        self._task = self.loop.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self.raw is not None:
            self.raw.from_client(data)
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
        if self.raw is not None:
            self.raw.client_ended()
            return True
        if self._lingering or not (self.serving or self._queue):
            return False
        current = self._parser.current if self._parser else None
        if current is not None and not current.complete:
            return False  # the rest of a message will never come
        self._half_closed = self._ended = True
        if self.serving:
            self.deadline = self.loop.time() + self.bounds.half_close_timeout
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = self._ended = True
        self.front.closed(self)
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.transport is not None:
            self._unread = unread(self.transport)
        if self.flow is not None:
            self.flow.client_writable(False)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.flow is not None:
            self.flow.client_writable(True)

    # what the bytes mean for the connection

    def _arrived(self, request: Request) -> None:
        if len(self._queue) >= self.bounds.max_pipelined:
            raise faults.malformed("Too many requests were sent at once.")
        self._queue.append(request)
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def await_body(self, request: Request) -> None:
        """The body has until a stall is too long, or its average rate too low (slowloris)."""
        now = self.loop.time()
        if not self._body_started:
            self._body_started, self._body_from = now, request.body_bytes
        earned = (request.body_bytes - self._body_from) / self.bounds.min_rate
        patience = self.bounds.body_timeout
        self.deadline = min(now, self._body_started + earned) + patience

    def hold_body(self) -> None:
        """The upstream is slower than the client: the client is not to blame for the wait."""
        self.pause_reading()
        self.deadline = 0.0
        self._body_started = 0.0

    def _fail(self, fault: Fault) -> None:
        self.fault = fault
        self._ended = True
        self.pause_reading()
        current = self._parser.current if self._parser else None
        if current is not None and current.received and not current.complete:
            current.close = True
            current.break_off()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def overdue(self) -> None:
        """The sweeper's verdict: the client took too long. Ends the wait that is under way."""
        self.deadline = 0.0
        parser = self._parser
        if self.transport is None or parser is None or self._ended:
            self.abort()
        elif self.write_paused:
            if not self._takes_enough():
                self.abort()  # what was sent is not whole
        elif self.raw is not None:
            self.raw.client_ended()
        elif parser.pending or (parser.current is not None and not parser.current.complete):
            self.too_slow()
        else:
            self._end()

    def too_slow(self) -> None:
        """What the client has begun to send is not waited for any longer."""
        self._fail(faults.too_slow())

    def _takes_enough(self) -> bool:
        """Whether the client has taken what we wrote at `min_rate` since we last looked. If so, it
        has the same time again."""
        assert self.transport is not None  # noqa: S101 - callers checked
        before, self._unread = self._unread, unread(self.transport)
        patience = self.bounds.body_timeout
        if before - self._unread < self.bounds.min_rate * patience:
            return False
        self.deadline = self.loop.time() + patience
        return True

    def _end(self) -> None:
        """Close between two requests. Who has not read the last answer by now is cut off."""
        assert self.transport is not None  # noqa: S101 - callers checked
        self._ended = True
        self.deadline = self.loop.time() + self.bounds.linger
        self.transport.close()

    # the task

    async def _serve(self) -> None:
        try:
            while await self._next_request():
                request = self._queue.popleft()
                if request.broken:
                    break  # a fault came with the head: nobody need be asked
                self.serving = True
                self.deadline = 0.0  # the client has done its part, for now
                if self._half_closed:
                    self.deadline = self.loop.time() + self.bounds.half_close_timeout
                if self.write_paused:
                    await self._until_read()
                keep = await self.front.handle(request, self)
                self.serving = False
                if not keep or self.closing:
                    break
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
        finally:
            self.serving = False
            self._ended = True
            self._close()

    async def _next_request(self) -> bool:
        while not self._queue:
            if self._ended:
                return False
            self._wake = self.loop.create_future()
            await self._wake
            self._wake = None
        return True

    async def _until_read(self) -> None:
        """No more is written to a client that has not taken the answers it got."""
        self.deadline = self.loop.time() + self.bounds.body_timeout
        self._drained = self.loop.create_future()
        await self._drained
        self.deadline = 0.0

    def _resume_parsing(self) -> None:
        rest, self._rest = self._rest, b""
        self.resume_reading()
        if rest:
            self.data_received(rest)

    def _answer_fault(self, fault: Fault) -> None:
        request_id = self.front.new_id()
        refusal = http_problem(fault.status, fault.title, fault.detail, request_id)
        head_only = self._parser is not None and self._parser.is_head
        self.write(refusal_bytes(refusal, request_id, accept=b"", head_only=head_only, close=True))

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
        return self.old or self.front.draining

    @property
    def early(self) -> bytes:
        """What the client sent after a request for an upgrade, without waiting; taken."""
        rest, self._rest = self._rest, b""
        return rest

    def reply(self, refusal: Refusal, request_id: str, request: Request, *, close: bool) -> None:
        """Write one of our own answers."""
        self.write(
            refusal_bytes(
                refusal,
                request_id,
                accept=request.accept,
                head_only=request.method == "HEAD",
                close=close,
            )
        )

    def write(self, data: bytes) -> None:
        """Queue bytes for the client."""
        if self.transport is not None and not self.lost:
            self.transport.write(data)

    def pause_reading(self) -> None:
        """Stop taking bytes from the client. Idempotent."""
        if self._reading and self.transport is not None and not self.lost:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes again. Idempotent."""
        if not self._reading and self.transport is not None and not self.lost:
            self._reading = True
            self.transport.resume_reading()

    def close_if_idle(self) -> None:
        """For draining and age: between two requests it is closed, else the answer is the last."""
        self.old = True
        if self.transport is None or self.transport.is_closing():
            return
        if not self.serving and not self._queue:
            self._end()
        elif self.raw is not None and self.front.draining:
            self.raw.client_ended()  # a tunnel does not end by itself

    def abort(self) -> None:
        """Drop the connection at once: the only way to say that a started answer is broken.

        With a reset, not an orderly end: to HTTP/1.0 an end is what makes an answer whole.
        """
        transport = self.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and not self.lost:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()
