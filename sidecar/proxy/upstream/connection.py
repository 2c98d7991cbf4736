"""One upstream connection: one exchange at a time, with strict checks of each response."""

import asyncio
import re
from typing import Final, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpResponseParser,
)

from sidecar.core.settlement import OutcomeReason
from sidecar.proxy.bounds import CHUNK, FRAMING
from sidecar.proxy.headers import NOT_IN_TRAILERS, NOT_RELAYED, Fields, without_nominated
from sidecar.proxy.upstream.connection_pool import ConnectionPool
from sidecar.proxy.upstream.places import Places
from sidecar.proxy.upstream.receiver import Receiver, ResponseHead, UpstreamTunnel
from sidecar.proxy.upstream.unread import unread

STATUS_LINE: Final = 64  # about, with the empty line
CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_OF_INTEREST: Final = NOT_RELAYED | {b"date", b"content-type", b"content-encoding"}
_NO_VALUES: Final[list[bytes]] = []  # replaced, never changed


class InvalidResponse(Exception):
    """A fault of the upstream's response; `str()` is the text for the client."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to the upstream. `receiver` is set during an exchange."""

    # More attributes than the 30 with which the interpreter reads and writes them fast.
    __slots__ = (
        "_announced", "_chunked", "_connection", "_dated", "_done", "_encodings", "_extra",
        "_fields", "_framing", "_in_body", "_length", "_parser", "_phrase", "_phrases", "_size",
        "_switching", "_trailers", "_type", "_until_close", "_upgrade", "account", "address",
        "answered", "bounds", "critical", "deadline", "idle_since", "parse_error", "places",
        "pool", "reading", "receiver", "reused", "transport", "tunnel", "usable",
    )  # fmt: skip
    __deletable__ = ("_parser",)  # mypyc requires it

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self.bounds = pool.bounds
        self.transport: asyncio.Transport | None = None
        self.receiver: Receiver | None = None
        self.tunnel: UpstreamTunnel | None = None
        self.deadline = 0.0
        self.idle_since = 0.0
        self.address = ""  # of the peer, if it was resolved from a name
        self.reused = False
        self.places: Places | None = None  # where the current request holds a place
        self.account = ""  # of that request
        self.critical = False
        self.answered = False  # any byte of the current response has arrived
        self.usable = True
        self.parse_error = ""  # in the parser's words, for the log
        self._parser = HttpResponseParser(self)
        self._in_body = False
        self._until_close = False
        self._done = False
        self.reading = True
        self._switching = False
        self._framing = 0
        self._clear()

    def _clear(self) -> None:
        self._phrase = self._type = b""
        self._fields: Fields = []
        self._trailers: Fields = []
        self._phrases = self._encodings = _NO_VALUES
        self._connection = self._upgrade = self._announced = _NO_VALUES
        self._dated = self._extra = False
        self._length: int | None = None
        self._chunked = False
        self._size = 0

    def start(self, receiver: Receiver, data: bytes, deadline: float) -> None:
        """Begin an exchange: send `data`, the head with the first part of the body."""
        self.receiver = receiver
        self.answered = self._in_body = self._done = self._until_close = self._switching = False
        self._extra = False
        self._framing = 0
        self.deadline = deadline
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    # callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.from_upstream(data)
            return
        receiver = self.receiver
        if receiver is None:
            self.retire()  # bytes without a request: the connection cannot be trusted
            return
        self.answered = True
        self._framing += len(data)
        if self._in_body:
            self.deadline = self.pool.now() + self.bounds.stream_timeout
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            if not self._done:
                self._switch(receiver, data[upgrade.args[0] :])
                return
            self._drop_extra()
        except HttpParserCallbackError as error:
            if not isinstance(error.__context__, InvalidResponse):
                raise
            self.fail(OutcomeReason.UPSTREAM_BROKEN, str(error.__context__))
            return
        except HttpParserError as invalid:
            if not self._done:
                self.parse_error = f"not valid HTTP: {invalid}"
                self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API's response is not valid HTTP.")
                return
            self._drop_extra()
        bound = FRAMING if self._in_body else self.bounds.max_response_header
        if self._framing > bound and not self._extra:
            self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API's response has too much framing.")
        elif self._done:
            self._finish(receiver)
        else:
            receiver.response_flush()

    def _drop_extra(self) -> None:
        """Note bytes after a complete response: it passes, and the connection is not reused."""
        self.usable = False
        self._extra = True

    def _switch(self, receiver: Receiver, rest: bytes) -> None:
        if not self._switching:
            self.fail(
                OutcomeReason.UPSTREAM_BROKEN, "The API switched protocols without a request."
            )
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
        del self._parser  # it refers to this object: see `RequestParser.close`

    def _end(self, exc: Exception | None) -> None:
        self.usable = False
        self.pool.remove(self)
        if self.tunnel is not None:
            self.tunnel.close()
            return
        if self.receiver is not None and isinstance(exc, OSError):
            for data in unread(self.transport):
                self.data_received(data)
        receiver = self.receiver
        if receiver is None:
            return
        if self._until_close and exc is None:
            self._finish(receiver)
        else:
            self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API closed the connection unexpectedly.")

    def pause_writing(self) -> None:
        side = self.tunnel or self.receiver
        if side is not None:
            side.upstream_writable(False)

    def resume_writing(self) -> None:
        side = self.tunnel or self.receiver
        if side is not None:
            side.upstream_writable(True)

    # callbacks of llhttp

    def on_message_begin(self) -> None:
        if self._done:
            self._drop_extra()  # a second response to one request
        else:
            self._clear()

    def on_status(self, phrase: bytes) -> None:
        if self._extra:
            return
        if self._phrase:  # it comes in pieces
            self._phrases = _added(self._phrases, phrase)
        else:
            self._phrase = phrase
        if phrase != b"OK" and CONTROLS.search(phrase):
            raise InvalidResponse("The API's status line is not valid.")

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        self._size += len(name) + len(value) + 4
        if self._in_body:  # as after the end of the response
            if not self._extra and lower not in NOT_IN_TRAILERS:
                self._trailers.append((lower, b"%b: %b\r\n" % (name, value)))
            return
        value = value.strip(b" \t")
        if lower not in _OF_INTEREST:
            self._fields.append((lower, b"%b: %b\r\n" % (name, value)))
        elif lower == b"content-length":
            self._length = int(value)
        elif lower == b"date":
            self._fields.append((lower, b"%b: %b\r\n" % (name, value)))
            self._dated = True
        elif lower == b"content-type":
            self._fields.append((lower, b"%b: %b\r\n" % (name, value)))
            self._type = value
        elif lower == b"connection":
            if value != b"keep-alive":
                self._connection = _added(self._connection, value)
        elif lower == b"content-encoding":
            self._fields.append((lower, b"%b: %b\r\n" % (name, value)))
            self._encodings = _added(self._encodings, value)
        elif lower == b"transfer-encoding":
            if self._chunked or value.lower() != b"chunked":
                raise InvalidResponse("The API used an unsupported transfer coding.")
            self._chunked = True
        elif lower == b"upgrade":
            offered = self.receiver.upgrade if self.receiver is not None else b""
            self._switching = bool(offered) and value.lower() == offered
            self._upgrade = _added(self._upgrade, value)
        elif lower == b"trailer":
            self._announced = _added(self._announced, value)

    def on_headers_complete(self) -> None:
        receiver = self.receiver
        parser = self._parser
        status = parser.get_status_code()
        if receiver is None or self._done:
            return
        if self._size > self.bounds.max_response_header:
            raise InvalidResponse("The API's response head is too large.")
        if parser.get_http_version() not in ("1.1", "1.0"):
            raise InvalidResponse("The API used an unsupported version of HTTP.")
        if self._chunked and (self._length is not None or parser.get_http_version() == "1.0"):
            raise InvalidResponse("The API framed its response in two ways.")
        if status < 200:
            if status < 100:
                raise InvalidResponse("The API used an invalid status code.")
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
            # llhttp does not know the method, so after HEAD it would wait for a body. The
            # message ends here, and the next one gets a new parser.
            self._done = True
            self._parser = HttpResponseParser(self)
        receiver.response_head(self._head(status))

    def _interim(self, receiver: Receiver, status: int) -> None:
        if status == 101:
            if not self._switching:
                raise InvalidResponse("The API switched protocols without a request.")
            receiver.response_head(self._head(status))
        elif status == 100:
            receiver.response_continue()
        else:
            receiver.response_interim(self._head(status))

    def _head(self, status: int) -> ResponseHead:
        fields = self._fields
        if self._connection:
            fields = without_nominated(fields, self._connection)
        if status == 426 and self._upgrade:  # RFC 9110, section 15.5.22
            protocols = b", ".join(self._upgrade)
            fields = [*fields, (b"upgrade", b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocols)]
        phrase, encoding = self._phrase, b""
        if self._phrases:
            phrase += b"".join(self._phrases)
        if self._encodings:
            encoding = b",".join(self._encodings)
        return ResponseHead(
            status, phrase, fields, self._length, self._type, encoding,
            self._dated, self._announced,
        )  # fmt: skip

    def on_chunk_header(self) -> None:
        self._framing -= CHUNK

    def on_body(self, data: bytes) -> None:
        self._framing -= len(data)
        if self._done:
            self._drop_extra()
        elif self.receiver is not None:
            self.receiver.response_body(data)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._done = True
        elif not self._switching:
            self._framing = 0  # the head was an interim one

    # for the exchange and the pool

    def write(self, data: bytes) -> None:
        """Queue bytes for the upstream."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def pause_reading(self) -> None:
        """Stop reading the response: the client is slower. Idempotent."""
        if self.reading and self.transport is not None and not self.transport.is_closing():
            self.reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read the response again. Idempotent."""
        if not self.reading and self.transport is not None and not self.transport.is_closing():
            self.reading = True
            self.transport.resume_reading()

    def fail(self, reason: OutcomeReason, detail: str) -> None:
        """Drop the connection, and notify the receiver once."""
        receiver, self.receiver = self.receiver, None
        self.retire()
        if receiver is not None:
            receiver.response_failed(reason, detail)

    def time_out(self) -> None:
        """Fail because a deadline has passed."""
        self.fail(OutcomeReason.UPSTREAM_TIMEOUT, "The API did not respond in time.")

    def retire(self) -> None:
        """Drop the connection, without a notice to the receiver."""
        self.usable = False
        self.receiver = self.tunnel = None
        self.deadline = 0.0
        if self.transport is not None:
            self.transport.abort()

    def _finish(self, receiver: Receiver) -> None:
        self.receiver = None
        self.deadline = 0.0
        receiver.response_end(self._trailers)


def _added(values: list[bytes], value: bytes) -> list[bytes]:
    """The values of a field and one more, without a copy for each line."""
    if not values:
        return [value]
    values.append(value)
    return values
