"""The upstream's side: pooled connections, one exchange at a time on each."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from sidecar.core.settlement import OutcomeReason
from sidecar.proxy.headers import NOT_RELAYED, Fields
from sidecar.proxy.limits import Bounds


class UpstreamFailed(Exception):
    """The upstream gave no usable answer."""

    def __init__(self, reason: OutcomeReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


@dataclass(slots=True)
class ResponseHead:
    """A response head. `length` is None when the body's end is not announced by a number."""

    status: int
    phrase: bytes
    fields: Fields  # to be relayed
    length: int | None
    chunked: bool


class Taker(Protocol):
    """Who receives a response, in this order: one head, any body, then end or failed."""

    method: str

    def response_head(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_flush(self) -> None: ...
    def response_end(self) -> None: ...
    def response_failed(self, reason: OutcomeReason, detail: str) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to the upstream. `taker` is set while it is in use."""

    def __init__(self, pool: "UpstreamPool") -> None:
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.taker: Taker | None = None
        self.deadline = 0.0
        self.idle_since = 0.0
        self.reused = False
        self.answered = False  # any byte of the current response has come
        self.usable = True
        self._parser = HttpResponseParser(self)
        self._in_body = False
        self._until_close = False
        self._done = False
        self._reading = True
        self._clear()

    def _clear(self) -> None:
        self._phrase = b""
        self._fields: Fields = []
        self._connection: list[bytes] = []
        self._length: int | None = None
        self._chunked = False
        self._size = 0

    def start(self, taker: Taker, data: bytes, deadline: float) -> None:
        """Send the head (and what there is of a body) and take the response."""
        self.taker = taker
        self.answered = self._in_body = self._done = self._until_close = False
        self.deadline = deadline
        self.write(data)

    # transport → us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.taker is None:
            self.retire()  # it speaks without being asked: nothing on it can be trusted
            return
        self.answered = True
        if self._in_body:
            self.deadline = self.pool.now() + self.pool.bounds.response_timeout
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API switched protocols unasked.")
        except HttpParserError as error:
            self.fail(
                OutcomeReason.UPSTREAM_BROKEN, f"The API's answer is not valid HTTP: {error}."
            )
        else:
            taker = self.taker
            if self._size > self.pool.bounds.max_header:
                self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API's response head is too large.")
            elif taker is not None:
                taker.response_flush()
                if self._done:
                    self._finish(taker)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self.pool.forget(self)
        taker = self.taker
        if taker is None:
            return
        if self._until_close and exc is None:
            self._finish(taker)
        else:
            self.fail(OutcomeReason.UPSTREAM_BROKEN, "The API closed the connection unexpectedly.")

    def pause_writing(self) -> None:
        if self.taker is not None:
            self.taker.upstream_writable(False)

    def resume_writing(self) -> None:
        if self.taker is not None:
            self.taker.upstream_writable(True)

    # parser → us

    def on_message_begin(self) -> None:
        if self._done:
            self.usable = False  # a second response that nobody asked for
        self._clear()

    def on_status(self, phrase: bytes) -> None:
        self._phrase += phrase

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value) + 4
        if self._in_body or self._done:
            return  # a trailer: bounded, not relayed
        lower = name.lower()
        if lower not in NOT_RELAYED:
            self._fields.append((name, value.strip(b" \t")))
        elif lower == b"content-length":
            self._length = int(value)
        elif lower == b"transfer-encoding":
            self._chunked = True
        elif lower == b"connection":
            self._connection.append(value.lower())

    def on_headers_complete(self) -> None:
        taker = self.taker
        status = self._parser.get_status_code()
        if taker is None or self._done or status < 200:
            return
        if not self._parser.should_keep_alive():
            self.usable = False
        bodyless = taker.method == "HEAD" or status in (204, 304)
        self._in_body = True
        self._until_close = not bodyless and self._length is None and not self._chunked
        length = self._length
        if bodyless:
            # llhttp does not know the method, so after HEAD it would wait for a body: the
            # message ends here, and the next one gets a parser that has seen none of this.
            self._done = True
            self._parser = HttpResponseParser(self)
        taker.response_head(
            ResponseHead(status, self._phrase, self._relayed(), length, self._chunked)
        )

    def _relayed(self) -> Fields:
        if not self._connection:
            return self._fields
        named = {n.strip() for value in self._connection for n in value.split(b",")}
        named -= {b"close", b"keep-alive", b"upgrade"}
        if not named:
            return self._fields
        return [field for field in self._fields if field[0].lower() not in named]

    def on_body(self, data: bytes) -> None:
        if self._done:
            self.usable = False
        elif self.taker is not None:
            self.taker.response_body(data)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._done = True

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
        """No (further) answer will come. The connection is dropped, the taker told once."""
        taker, self.taker = self.taker, None
        self.retire()
        if taker is not None:
            taker.response_failed(reason, detail)

    def overdue(self) -> None:
        """The sweeper's verdict: the upstream took too long."""
        self.fail(OutcomeReason.UPSTREAM_TIMEOUT, "The API did not answer in time.")

    def retire(self) -> None:
        """Drop the connection; it is not used again."""
        self.usable = False
        self.taker = None
        if self.transport is not None:
            self.transport.abort()

    def _finish(self, taker: Taker) -> None:
        self.taker = None
        self.deadline = 0.0
        taker.response_end()


class UpstreamPool:
    """Connections to the one upstream: idle ones last in, first out; bounded in number."""

    def __init__(self, host: str, port: int, bounds: Bounds) -> None:
        self.bounds = bounds
        self._host = host
        self._port = port
        self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self._loop.time
        self._idle: deque[UpstreamConnection] = deque()
        self._all: set[UpstreamConnection] = set()
        self._connecting = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def size(self) -> int:
        """Open connections, idle ones included."""
        return len(self._all)

    @property
    def idle(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    def take_idle(self) -> UpstreamConnection | None:
        """The warmest idle connection, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
        return None

    async def acquire(self) -> UpstreamConnection:
        """A connection of one's own: idle, new, or the next that is given back.

        Raises UpstreamFailed when none can be had within the connect timeout.
        """
        give_up = self.now() + self.bounds.connect_timeout
        while len(self._all) + self._connecting >= self.bounds.upstream_connections:
            await self._wait_turn(give_up)
            connection = self.take_idle()
            if connection is not None:
                return connection
        return await self.connect()

    async def _wait_turn(self, give_up: float) -> None:
        turn = self._loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(give_up):
                await turn
        except TimeoutError:
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_TIMEOUT, "All connections to the API are busy."
            ) from None
        finally:
            if not turn.done() or turn.cancelled():
                self._waiting.remove(turn)

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises UpstreamFailed."""
        self._connecting += 1
        try:
            async with asyncio.timeout(self.bounds.connect_timeout):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self), self._host, self._port
                )
        except TimeoutError:
            self._wake_next()
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_TIMEOUT, "The API did not accept a connection in time."
            ) from None
        except OSError:
            self._wake_next()
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_REFUSED, "The API cannot be reached: connection refused."
            ) from None
        finally:
            self._connecting -= 1
        self._all.add(connection)
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Give a connection back after a whole exchange."""
        if not connection.usable:
            connection.retire()
            return
        connection.resume_reading()
        connection.idle_since = self.now()
        self._idle.append(connection)
        self._wake_next()

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._wake_next()

    def _wake_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def sweep(self, now: float) -> None:
        """End exchanges that are overdue and close what has been idle for long."""
        for connection in list(self._all):
            if connection.deadline and now >= connection.deadline:
                connection.overdue()
        while self._idle and now - self._idle[0].idle_since > self.bounds.upstream_idle:
            self._idle.popleft().retire()

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._all):
            connection.retire()
