"""One client connection: its requests are served in order, and each wait has a deadline.

One task per connection serves its requests one after the other. Parsing happens in callbacks,
which only queue requests. A malformed message ends the connection after one response.
"""

import asyncio
from typing import cast

from sidecar.proxy.bounds import LINE
from sidecar.proxy.downstream import faults
from sidecar.proxy.downstream.connection_owner import ConnectionOwner, DownstreamTunnel
from sidecar.proxy.downstream.faults import Fault
from sidecar.proxy.downstream.pacing import PacedConnection, peer_closed
from sidecar.proxy.downstream.parser import RequestParser
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.responses import LocalReply, reply_bytes


class ClientConnection(PacedConnection):
    """One connection from a client."""

    __slots__ = (
        "_ended", "_half_closed", "_lingering", "_parser", "_pending", "_queue", "_rest", "_task",
        "_wake", "expired", "fault", "owner", "serving", "silent", "tunnel",
    )  # fmt: skip

    def __init__(self, owner: ConnectionOwner, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(owner.bounds, loop)
        self.owner = owner
        self.serving = False
        self.silent = True  # has sent no request yet
        self.expired = False  # past its maximum age: the next response is its last
        self.tunnel: DownstreamTunnel | None = None
        self.fault: Fault | None = None  # of the client's message, until it is answered
        self._parser: RequestParser | None = None
        self._queue: list[Request] = []  # mostly empty: a deque takes ten times the memory
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False  # no more requests are parsed
        self._half_closed = False
        self._lingering = False
        self._pending = 0  # estimated memory of an unfinished head
        self._rest = b""  # received after a request for an upgrade

    # callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if not self.owner.opened(self, peer):
            self.transport.abort()
            return
        self._parser = self._new_parser(self.transport)
        self.deadline = self.loop.time() + self.bounds.header_timeout
        self._task = self.loop.create_task(self._serve())

    def _new_parser(self, transport: asyncio.Transport) -> RequestParser:
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else "unix"
        trusted = self.owner.trusts(address)
        return RequestParser(
            self.bounds, address, self.loop.time, self._on_request, trusted=trusted
        )

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.from_client(data)
            return
        if self._ended or self._parser is None:
            return
        parser = self._parser
        if self._rest or (parser.current.upgrade and self._awaits_upgrade(parser.current)):
            self._rest += data  # HTTP or not: the response to the upgrade decides
            self.pause_reading()
            return
        if not parser.pending and not self.serving and not self._queue:
            self.deadline = self.loop.time() + self.bounds.header_timeout
        try:
            self._rest = parser.feed(data)
        except Fault as fault:
            current = parser.current
            if current.complete and current.close:
                self._ended = True  # bytes after a last request are ignored (RFC 9112, 9.6)
            else:
                self._fail(fault)
        else:
            current = parser.current
            if self._pending or parser.pending:
                self._note_pending(parser)
            if not current.received:
                return
            if current.complete:
                if len(self._queue) > 1 or self._rest:
                    self.pause_reading()
            elif not current.flowing:
                self.pause_reading()
            elif self.deadline:
                self.await_body(current)

    def _note_pending(self, parser: RequestParser) -> None:
        size = parser.pending + LINE * parser.lines if parser.pending else 0
        if size != self._pending:
            self._pending = size
            self.owner.head_pending(self, size)

    def give_up_head(self) -> None:
        """End the connection, whose unfinished head takes memory that others need.

        Requests before that head are served first.
        """
        parser, self._parser = self._parser, None
        if self._ended or self.transport is None or parser is None:
            self.abort()
        elif self.serving or self._queue:
            self._parser = self._new_parser(self.transport)  # the old one holds the head
            self._fail(faults.too_many_heads())
        else:
            self._ended = True
            self.owner.answer_fault(faults.too_many_heads(), None, self)
            self.transport.close()
            self.deadline = self.loop.time() + self.bounds.linger
        if parser is not None:
            parser.close()

    def _awaits_upgrade(self, last: Request) -> bool:
        """Whether the last request, which asks for an upgrade, has no response yet."""
        return last.complete and (self.serving or bool(self._queue))

    def eof_received(self) -> bool:
        """Whether to keep the connection open for the responses that are still due.

        The client sends no more. A client that is gone altogether looks the same until the sidecar
        writes to it (RFC 9112, section 9.6). By default, it counts as gone, and its request to the
        API is cancelled.
        """
        if self.tunnel is not None:
            self.tunnel.client_ended()
            return True
        if self._lingering or not (self.serving or self._queue) or self._request_waits():
            return False  # the client may be gone: its request must not take a place in a queue
        current = self._parser.current if self._parser else None
        if current is not None and not current.complete:
            return False  # the rest of the message will never come
        if not self.bounds.half_close_timeout:
            if current is not None and current.answered and not self._queue:
                return False  # its response is complete, and may still be in the transport
            self.abort()
            return True
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

    def _on_request(self, request: Request) -> None:
        if len(self._queue) >= self.bounds.max_pipelined:
            raise faults.malformed("Too many requests were sent at once.")
        self._queue.append(request)
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _fail(self, fault: Fault) -> None:
        fault.__context__ = None  # its frames hold the bytes that were received
        self.fault = fault.with_traceback(None)
        self._ended = True
        self.pause_reading()
        current = self._parser.current if self._parser else None
        if current is not None and current.received and not current.complete:
            current.close = True
            current.fail_body()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def on_deadline(self) -> None:
        """End the wait whose deadline has passed. The sweeper calls it."""
        self.deadline = 0.0
        transport, parser = self.transport, self._parser
        # After a fault, the response to an earlier request may still be read.
        served = self.serving and self.write_paused and self.fault is not None
        if transport is None or parser is None or (self._ended and not served):
            self.abort()
        elif self.write_paused:
            if not self.reads_fast_enough(transport):
                self.abort()  # the response is incomplete
        elif self.tunnel is not None:
            self.tunnel.going_away()
        elif parser.pending or not parser.current.complete:
            self.time_out_request()
        else:
            self._end(transport)

    def time_out_request(self) -> None:
        """Stop waiting for the rest of the request: 408."""
        self._fail(faults.too_slow())

    def _end(self, transport: asyncio.Transport) -> None:
        """Close between two requests. The client has `linger` seconds to read its last response."""
        self._ended = True
        self.deadline = self.loop.time() + self.bounds.linger
        transport.close()

    def left_while_waiting(self) -> bool:
        """Whether the client has left while its request waits and its socket is not read."""
        if self._reading or self.transport is None or self.tunnel is not None:
            return False
        if not self._request_waits():
            current = self._parser.current if self._parser else None
            if self.bounds.half_close_timeout or not self.serving or current is None:
                return False
            if not current.complete:
                return False
        return peer_closed(self.transport)

    def _request_waits(self) -> bool:
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
                    break  # a fault came with the head: the gate is not asked
                self.serving = True
                self.deadline = 0.0  # the client has sent what it has to, for now
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
                    timeout = self.bounds.header_timeout if late else self.bounds.idle_timeout
                    if request.discarding and not request.complete:
                        timeout = self.bounds.body_timeout
                    self.deadline = self.loop.time() + timeout
            if self.fault is not None:
                self._answer_fault(self.fault)
        except Exception as error:  # noqa: BLE001 - an unforeseen error ends this connection only
            self.owner.handle_error(error, request, self)
        finally:
            self.serving = False
            self._ended = True
            self._close()
            self._task = None  # the task holds its exception, whose traceback holds the connection

    def _resume_parsing(self) -> None:
        rest, self._rest = self._rest, b""
        self.resume_reading()
        if rest:
            self.data_received(rest)

    def _answer_fault(self, fault: Fault) -> None:
        if self.transport is None or self.transport.is_closing():
            return  # the fault has cut off the response that was being written
        self.owner.answer_fault(fault, self._parser.unfinished if self._parser else None, self)

    def _close(self) -> None:
        """Close the connection.

        A client that may still be sending gets time to read its response first: a reset would
        take the response away (RFC 9112, section 9.6).
        """
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

    # for the exchange and the data port

    @property
    def closing(self) -> bool:
        """Whether the response to the current request is the connection's last."""
        return self.expired or self.owner.draining

    def take_rest(self) -> bytes:
        """Take the bytes that the client sent after a request for an upgrade."""
        rest, self._rest = self._rest, b""
        return rest

    def reply(self, reply: LocalReply, request: Request, *, close: bool) -> int:
        """Write a response of the sidecar. Returns the size of its body in bytes."""
        head, body = reply_bytes(reply, accept=request.accept, close=close)
        if request.method == "HEAD":  # the same fields, no body
            body = b""
        request.begun = request.answered = True
        self.write(head + body)
        return len(body)

    def close_if_idle(self) -> None:
        """Close the connection between two requests, else after its current response."""
        self.expired = True
        if self.transport is None or self.transport.is_closing():
            return
        if not self.serving and not self._queue:
            self._end(self.transport)
        elif self.tunnel is not None and self.owner.draining:
            self.tunnel.going_away()  # a tunnel has no next response to end with
