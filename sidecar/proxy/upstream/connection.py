"""The upstream's side: one connection, one exchange at a time, answers held to HTTP's rules."""

import asyncio
import contextlib
import os
import re
import socket
from typing import Protocol, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpResponseParser,
)

from sidecar.core.settlement import OutcomeReason
from sidecar.proxy.bounds import CHUNK, FRAMING, Bounds
from sidecar.proxy.headers import NOT_IN_TRAILERS, NOT_RELAYED, Fields, without_nominated
from sidecar.proxy.upstream.receiver import Receiver, ResponseHead

STATUS_LINE = 64  # and the empty line, about
READ = 65_536
CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class InvalidResponse(Exception):
    """What is wrong with the upstream's answer; `str()` tells the client."""


class ConnectionPool(Protocol):
    """Where a connection belongs."""

    bounds: Bounds

    def now(self) -> float: ...
    def forget(self, connection: "UpstreamConnection") -> None: ...


class UpstreamTunnel(Protocol):
    """Who takes the upstream's bytes when they are no longer HTTP."""

    def from_upstream(self, data: bytes) -> None: ...
    def upstream_ended(self) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to the upstream. `receiver` is set while it is in use."""

    __deletable__ = ("_parser",)  # mypyc asks for it

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.bounds = pool.bounds
        self.transport: asyncio.Transport | None = None
        self.receiver: Receiver | None = None
        self.tunnel: UpstreamTunnel | None = None
        self.deadline = 0.0
        self.idle_since = 0.0
        self.address = ""  # that it leads to, when that came from a name
        self.reused = False
        self.answered = False  # any byte of the current response has come
        self.usable = True
        self.flaw = ""  # what the parser found wrong, in its words: for the log
        self._parser = HttpResponseParser(self)
        self._in_body = False
        self._until_close = False
        self._done = False
        self._reading = True
        self._switching = False
        self._framing = 0
        self._clear()

    def _clear(self) -> None:
        self._phrase = self._type = self._encoding = b""
        self._fields: Fields = []
        self._trailers: Fields = []
        self._connection: tuple[bytes, ...] = ()
        self._length: int | None = None
        self._chunked = False
        self._size = 0

    def start(self, receiver: Receiver, data: bytes, deadline: float) -> None:
        """Send the head (and what there is of a body) and take the response."""
        self.receiver = receiver
        self.answered = self._in_body = self._done = self._until_close = self._switching = False
        self._framing = 0
        self.deadline = deadline
        self.write(data)

    # transport → us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.from_upstream(data)
            return
        receiver = self.receiver
        if receiver is None:
            self.retire()  # it speaks without being asked: nothing on it can be trusted
            return
        self.answered = True
        self._framing += len(data)
        if self._in_body:
            self.deadline = self.pool.now() + self.bounds.stream_timeout
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._switch(receiver, data[upgrade.args[0] :])
            return
        except HttpParserCallbackError as error:
            if not isinstance(error.__context__, InvalidResponse):
                raise
            self.fail(OutcomeReason.UPSTREAM_BROKEN, str(error.__context__))
            return
        except HttpParserError as flaw:
            self.flaw = f"not valid HTTP: {flaw}"
            self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API's answer is not valid HTTP.")
            return
        if self._framing > (FRAMING if self._in_body else self.bounds.max_header):
            self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API's answer has too much framing.")
        elif self._done:
            self._finish(receiver)
        else:
            receiver.response_flush()

    def _switch(self, receiver: Receiver, rest: bytes) -> None:
        if not self._switching:
            self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API switched protocols unasked.")
            return
        self.deadline = 0.0
        self.usable = False
        self.receiver = None
        receiver.response_switched(rest)

    def eof_received(self) -> bool:
        if self.tunnel is not None:
            self.tunnel.upstream_ended()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        del self._parser  # it knows us: see `RequestParser.close`

    def _end(self, exc: Exception | None) -> None:
        self.usable = False
        self.pool.forget(self)
        if self.tunnel is not None:
            self.tunnel.upstream_ended()
            return
        if self.receiver is not None and isinstance(exc, OSError):
            self._read_rest()
        receiver = self.receiver
        if receiver is None:
            return
        if self._until_close and exc is None:
            self._finish(receiver)
        else:
            self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API closed the connection unexpectedly.")

    def _read_rest(self) -> None:
        """An API that refuses a body unread_bytes and closes makes our next write fail, and then the
        loop reads no more: what it said is still in the socket (RFC 9112, section 9.6)."""
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return
        with contextlib.suppress(OSError):
            descriptor = os.dup(transport.get_extra_info("socket").fileno())
            with socket.socket(fileno=descriptor) as rest:
                while self.receiver is not None and (data := rest.recv(READ)):
                    self.data_received(data)

    def pause_writing(self) -> None:
        side = self.tunnel or self.receiver
        if side is not None:
            side.upstream_writable(False)

    def resume_writing(self) -> None:
        side = self.tunnel or self.receiver
        if side is not None:
            side.upstream_writable(True)

    # parser → us

    def on_message_begin(self) -> None:
        if self._done:
            self.usable = False  # a second response that nobody asked for
        self._clear()

    def on_status(self, phrase: bytes) -> None:
        self._phrase += phrase
        if phrase != b"OK" and CONTROLS.search(phrase):
            raise InvalidResponse("The API's status line is not valid.")

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        self._size += len(name) + len(value) + 4
        if self._in_body or self._done:
            if lower not in NOT_IN_TRAILERS:
                self._trailers.append((lower, b"%b: %b\r\n" % (name, value)))
            return
        value = value.strip(b" \t")
        if lower not in NOT_RELAYED:
            self._fields.append((lower, b"%b: %b\r\n" % (name, value)))
            if lower == b"content-type":
                self._type = value
            elif lower == b"content-encoding":
                self._encoding = self._encoding + b"," + value if self._encoding else value
        elif lower == b"content-length":
            self._length = int(value)
        elif lower == b"transfer-encoding":
            if self._chunked or value.lower() != b"chunked":
                raise InvalidResponse("The API used a transfer coding that is not supported.")
            self._chunked = True
        elif lower == b"connection":
            if value != b"keep-alive":
                self._connection += (value,)
        elif lower == b"upgrade":
            offered = self.receiver.upgrade if self.receiver is not None else b""
            self._switching = bool(offered) and value.lower() == offered

    def on_headers_complete(self) -> None:
        receiver = self.receiver
        parser = self._parser
        status = parser.get_status_code()
        if receiver is None or self._done:
            return
        if self._size > self.bounds.max_header:
            raise InvalidResponse("The API's response head is too large.")
        if parser.get_http_version() not in ("1.1", "1.0"):
            raise InvalidResponse("The API speaks another version of HTTP.")
        if self._chunked and (self._length is not None or parser.get_http_version() == "1.0"):
            raise InvalidResponse("The API framed its answer in two ways.")
        if status < 200:
            self._interim(receiver, status)
            return
        if not parser.should_keep_alive():
            self.usable = False
        bodyless = receiver.method == "HEAD" or status == 204 or status == 304
        self._in_body = True
        self._framing -= self._size + STATUS_LINE
        self.deadline = self.pool.now() + self.bounds.stream_timeout
        self._until_close = not bodyless and self._length is None and not self._chunked
        if bodyless:
            # llhttp does not know the method, so after HEAD it would wait for a body: the
            # message ends here, and the next one gets a parser that has seen none of this.
            self._done = True
            self._parser = HttpResponseParser(self)
        receiver.response_head(self._head(status))

    def _interim(self, receiver: Receiver, status: int) -> None:
        if status == 101:
            if not self._switching:
                raise InvalidResponse("The API switched protocols unasked.")
            receiver.response_head(self._head(status))
        elif status != 100:  # we have answered 100 ourselves
            receiver.response_interim(self._head(status))

    def _head(self, status: int) -> ResponseHead:
        fields = self._fields
        if self._connection:
            fields = without_nominated(fields, self._connection)
        return ResponseHead(status, self._phrase, fields, self._length, self._type, self._encoding)

    def on_chunk_header(self) -> None:
        self._framing -= CHUNK

    def on_body(self, data: bytes) -> None:
        self._framing -= len(data)
        if self._done:
            self.usable = False
        elif self.receiver is not None:
            self.receiver.response_body(data)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._done = True
        elif not self._switching:
            self._framing = 0  # an interim head

    # what the exchange asks for

    def write(self, data: bytes) -> None:
        """Queue bytes for the upstream."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def pause_reading(self) -> None:
        """Stop taking response bytes: the client is slower. Idempotent."""
        if self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take response bytes again. Idempotent."""
        if not self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def fail(self, reason: OutcomeReason, detail: str) -> None:
        """No (further) answer will come. The connection is dropped, the receiver told once."""
        receiver, self.receiver = self.receiver, None
        self.retire()
        if receiver is not None:
            receiver.response_failed(reason, detail)

    def overdue(self) -> None:
        """The sweeper's verdict: the upstream took too long."""
        self.fail(OutcomeReason.UPSTREAM_TIMEOUT, "The API did not answer in time.")

    def retire(self) -> None:
        """Drop the connection; it is not used again."""
        self.usable = False
        self.receiver = self.tunnel = None
        self.deadline = 0.0
        if self.transport is not None:
            self.transport.abort()

    def _finish(self, receiver: Receiver) -> None:
        self.receiver = None
        self.deadline = 0.0
        receiver.response_end(self._trailers)
