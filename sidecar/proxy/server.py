"""The client's side: bytes in, requests out, answers back in order.

One task per connection serves its requests one after the other; parsing happens in
callbacks and only queues. A message that is malformed ends the connection after one answer.
"""

import asyncio
from collections import deque
from typing import Protocol, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from sidecar.core.refusals import Refusal, http_problem
from sidecar.logs import logger
from sidecar.proxy.headers import NOT_FORWARDED, is_spoofed, valid_host
from sidecar.proxy.limits import Bounds
from sidecar.proxy.replies import refusal_bytes
from sidecar.proxy.request import Request

log = logger("proxy")


class Fault(Exception):
    """What is wrong with the client's message. Answered once, then the connection closes."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        super().__init__(detail)


class Handler(Protocol):
    """Serves one request; says whether the connection can take another."""

    async def __call__(self, request: Request, connection: "ClientConnection") -> bool: ...


class Front(Protocol):
    """What connections share: bounds, the handler, and the list of who is there."""

    bounds: Bounds
    draining: bool

    def opened(self, connection: "ClientConnection") -> bool: ...
    def closed(self, connection: "ClientConnection") -> None: ...
    def new_id(self) -> str: ...
    async def handle(self, request: Request, connection: "ClientConnection") -> bool: ...


class ClientConnection(asyncio.Protocol):
    """One TCP connection from a client."""

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self.front = front
        self.bounds = front.bounds
        self.transport: asyncio.Transport | None = None
        self.deadline = 0.0  # loop time at which the sweeper loses patience; 0: never
        self.serving = False
        self.lost = False
        self.on_writable: asyncio.Future[None] | None = None
        self.on_pause = _nothing
        self.on_resume = _nothing
        self.write_paused = False
        self._loop = loop
        self._address = ""
        self._parser = HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._current: Request | None = None  # being parsed
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._fault: Fault | None = None
        self._reading = True
        self._ended = False  # no more requests will be parsed
        self._head_size = 0
        self._fed = 0

    # transport → us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else "127.0.0.1"
        if not self.front.opened(self):
            self.transport.abort()
            return
        self.deadline = self._loop.time() + self.bounds.header_timeout
        self._task = self._loop.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        current = self._current
        if current is None or current.complete:
            self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data, upgrade.args[0])
        except HttpParserCallbackError as error:
            self._fail(error.__context__)
        except HttpParserError as error:
            self._fail(error)
        else:
            self._check_flow()

    def eof_received(self) -> bool:
        """The client sends no more. With nothing under way that is the end of the connection;
        while a call runs it means, as for other proxies, that nobody waits for the answer."""
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True
        self._ended = True
        self.front.closed(self)
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.write_paused = True
        self.on_pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        self.on_resume()

    # parser → us

    def on_message_begin(self) -> None:
        if len(self._queue) >= self.bounds.max_pipelined:
            raise Fault(400, "Too many pipelined requests", "Send fewer requests at once.")
        self._current = Request(self._address)
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        request = self._request()
        request.target += url
        if len(request.target) > self.bounds.max_target:
            raise Fault(
                414,
                "Request target too long",
                f"The request target is longer than {self.bounds.max_target} bytes.",
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request()
        self._head_size += len(name) + len(value) + 4
        if (
            self._head_size > self.bounds.max_header
            or len(request.fields) >= self.bounds.max_fields
        ):
            raise _too_large(self.bounds)
        if request.received:  # a trailer: bounded above, not forwarded
            return
        value = value.strip(b" \t")
        lower = name.lower()
        if lower not in _OF_INTEREST:
            if not is_spoofed(lower):
                request.fields.append((name, value))
        else:
            self._note(request, lower, name, value)

    def _note(self, request: Request, lower: bytes, name: bytes, value: bytes) -> None:
        match lower:
            case b"host":
                request.host.append(value)
            case b"x-api-key":
                request.api_keys.append(value)
            case b"authorization":
                request.authorizations.append(value)
            case b"connection":
                request.connection.append(value)
            case b"traceparent":
                request.traceparents.append(value)
            case b"accept":
                request.accept = value
            case b"content-length":
                request.content_length = int(value)  # llhttp refused all but digits
            case b"transfer-encoding":
                if request.chunked or value.lower() != b"chunked":
                    raise Fault(
                        501,
                        "Transfer coding not supported",
                        "The only transfer coding understood here is a single chunked.",
                    )
                request.chunked = True
            case b"expect":
                request.expects_continue = value.lower() == b"100-continue"
            case _:
                pass
        if lower not in NOT_FORWARDED:
            request.fields.append((name, value))

    def on_headers_complete(self) -> None:
        request = self._request()
        request.method = self._parser.get_method().decode("ascii")
        request.http10 = self._parser.get_http_version() == "1.0"
        request.close = not self._parser.should_keep_alive()
        request.received = self._loop.time()
        self._fed = 0
        _check_head(request, self._parser.get_http_version(), self.bounds)
        self._queue.append(request)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def on_body(self, data: bytes) -> None:
        request = self._request()
        limit = self.bounds.max_body
        if limit and request.body_bytes + len(data) > limit:
            raise Fault(413, "Request body too large", f"A body may have up to {limit} bytes here.")
        request.feed(data)

    def on_message_complete(self) -> None:
        self._request().end()

    def _request(self) -> Request:
        assert self._current is not None  # noqa: S101 - llhttp begins every message
        return self._current

    # what the bytes mean for the connection

    def _check_flow(self) -> None:
        """Bound the head that is still coming, and stop reading what nobody takes yet."""
        current = self._current
        if current is None or not current.received:
            if self._fed > self.bounds.max_header + self.bounds.max_target:
                self._fail(_too_large(self.bounds))
            return
        if not current.complete:
            if not current.flowing:
                self.pause_reading()
            elif self.deadline:
                self.deadline = self._loop.time() + self.bounds.body_timeout
        elif len(self._queue) > 1:
            self.pause_reading()

    def _ignore_upgrade(self, data: bytes, offset: int) -> None:
        """Upgrades are not offered: the request is served as if not asked for (RFC 9110, 7.8)."""
        self._parser = HttpRequestParser(self)
        rest = data[offset:]
        if rest:
            self.data_received(rest)

    def _fail(self, error: BaseException | None) -> None:
        if isinstance(error, Fault):
            self._fault = error
        elif isinstance(error, HttpParserInvalidMethodError):
            self._fault = Fault(400, "Malformed request", "The request method is not known.")
        elif isinstance(error, HttpParserInvalidURLError):
            self._fault = Fault(400, "Malformed request", "The request target is not valid.")
        elif isinstance(error, HttpParserError):
            self._fault = Fault(400, "Malformed request", f"This is not valid HTTP/1.1: {error}.")
        else:
            log.error("parser callback failed", error=repr(error))
            self._fault = Fault(500, "Internal error", "The request could not be read.")
        self._ended = True
        self.pause_reading()
        current = self._current
        if current is not None and current.received and not current.complete:
            current.close = True
            current.break_off()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def overdue(self) -> None:
        """The sweeper's verdict: the client took too long. Ends the wait that is under way."""
        self.deadline = 0.0
        if self.transport is None or self._ended:
            self.abort()
        elif self._fed or (self._current is not None and not self._current.complete):
            self._fail(Fault(408, "Request timeout", "The request took too long to arrive."))
        else:
            self.transport.close()

    # the task

    async def _serve(self) -> None:
        try:
            while await self._next_request():
                request = self._queue.popleft()
                self.serving = True
                keep = await self.front.handle(request, self)
                self.serving = False
                if not keep or self.front.draining:
                    break
                self.resume_reading()
                if not self._queue:
                    self.deadline = self._loop.time() + self.bounds.idle_timeout
            if self._fault is not None:
                self._answer_fault(self._fault)
        finally:
            self._ended = True
            if self.transport is not None:
                self.transport.close()

    async def _next_request(self) -> bool:
        while not self._queue:
            if self._ended:
                return False
            self._wake = self._loop.create_future()
            await self._wake
            self._wake = None
        return True

    def _answer_fault(self, fault: Fault) -> None:
        request_id = self.front.new_id()
        refusal = http_problem(fault.status, fault.title, fault.detail, request_id)
        self.reply(refusal, request_id, None, close=True)

    # what the exchange asks for

    @property
    def fault(self) -> Fault | None:
        """What was found wrong while a body was being received."""
        return self._fault

    def fault_answered(self) -> None:
        """The exchange has told the client what was wrong."""
        self._fault = None

    def reply(
        self, refusal: Refusal, request_id: str, request: Request | None, *, close: bool
    ) -> None:
        """Write one of our own answers."""
        self.write(
            refusal_bytes(
                refusal,
                request_id,
                accept=request.accept if request else b"",
                head_only=request is not None and request.method == "HEAD",
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
        """For draining: a connection between two requests is closed."""
        if not self.serving and self.transport is not None:
            self._ended = True
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection at once: the only way to say that a started answer is broken."""
        if self.transport is not None:
            self.transport.abort()


_OF_INTEREST = NOT_FORWARDED | {b"x-api-key", b"authorization", b"accept"}


def _nothing() -> None:
    pass


def _too_large(bounds: Bounds) -> Fault:
    return Fault(
        431,
        "Request header fields too large",
        f"Send at most {bounds.max_fields} header fields of {bounds.max_header} bytes in all.",
    )


def _check_head(request: Request, version: str, bounds: Bounds) -> None:
    """What llhttp leaves to us: RFC 9112, sections 3.2 and 6.1, and what is not offered."""
    if version not in ("1.1", "1.0"):
        raise Fault(400, "Malformed request", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if len(request.host) > 1 or (not request.host and not request.http10):
        raise Fault(400, "Malformed request", "Exactly one Host field is needed.")
    if request.host and not valid_host(request.host[0]):
        raise Fault(400, "Malformed request", "The Host field is not a host name and port.")
    if request.http10 and request.chunked:
        raise Fault(400, "Malformed request", "HTTP/1.0 has no transfer codings.")
    if request.method == "CONNECT":
        raise Fault(405, "Method not allowed", "This is a gateway to one API, not a tunnel.")
    if bounds.max_body and (request.content_length or 0) > bounds.max_body:
        raise Fault(
            413, "Request body too large", f"A body may have up to {bounds.max_body} bytes here."
        )
