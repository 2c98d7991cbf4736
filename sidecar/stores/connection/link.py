"""One connection to one Redis server: few writes per loop tick, replies in order."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

from sidecar.errors import StoreUnavailable
from sidecar.logs import logger

log = logger("stores")

# Gets a reply that came too late, and its connection; None: the current connection.
Late = Callable[[Any, "Link | None"], None]


class ReplyError(Exception):
    """An error reply of Redis. It is returned, not raised: its meaning depends on the command."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


def bulk(text: str) -> bytes:
    """One argument as RESP bytes."""
    data = text.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def encode(*parts: bytes | str | int) -> bytes:
    """A command as RESP bytes."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        if isinstance(part, bytes):
            data = part
        else:
            data = part.encode() if isinstance(part, str) else b"%d" % part
        out.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(out)


PING: Final = encode(b"PING")
EARLY: Final = 6  # commands in one tick before an early write
_MORE: Final = object()


class Link(asyncio.Protocol):
    """One connection, from connecting to closing. Replies match commands by their order."""

    def __init__(
        self,
        lost: Callable[["Link"], None],
        timeout_s: float,
        error: Callable[[str], ReplyError] = ReplyError,
    ) -> None:
        """`error` makes the reply for the text of an error."""
        self.aside = False  # the current connection may be to another server
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[tuple[float, asyncio.Future[Any], Late | None]] = deque()
        self._lost = lost
        self._timeout = timeout_s
        self._reader = hiredis.Reader(replyError=error, notEnoughData=_MORE)
        self._out: list[bytes] = []
        self._unsent = 0  # number of commands in `_out`
        self._descriptor = -1  # of the socket; -1 with TLS
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        plain = transport.get_extra_info("sslcontext") is None
        sock = transport.get_extra_info("socket") if plain else None
        self._descriptor = -1 if sock is None else sock.fileno()

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self.waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                _, future, late = waiting.popleft()
                if not future.done():
                    future.set_result(reply)
                elif late is not None:
                    late(reply, self)
        except (hiredis.ProtocolError, IndexError):
            log.error("redis_reply_invalid")
            self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._fail_all("the connection to Redis was lost")
        self.waiting.clear()
        self._lost(self)

    def _fail_all(self, error: str) -> None:
        for _, future, _ in self.waiting:
            if not future.done():
                future.set_exception(StoreUnavailable(error))
                future.exception()  # the reply may not be awaited any more

    def send(
        self, command: bytes, deadline: float, late: Late | None = None
    ) -> asyncio.Future[Any]:
        """Send a command; its future reply. `Wire` checks the deadlines in `waiting`."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self.waiting.append((deadline, future, late))
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(command)
        self._unsent += 1
        if self._unsent == EARLY:
            self._start_early()
        return future

    def send_for(
        self, future: asyncio.Future[Any], command: bytes, deadline: float, late: Late | None
    ) -> None:
        """Send a command whose future exists already."""
        self.waiting.append((deadline, future, late))
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(command)

    def tell(self, command: bytes) -> None:
        """Send a command and ignore the reply."""
        self.send(command, self.loop.time() + self._timeout).add_done_callback(ignore)

    def set_aside(self) -> None:
        """Fail all waiting commands. Their replies will be late."""
        self.aside = True
        self._fail_all("Redis did not answer in time")

    def _start_early(self) -> None:
        """Write before the tick ends, so that Redis works while the rest of the tick runs.

        The loop would write at the end of the tick. With many requests in one tick, Redis would
        be idle until then, and the sidecar afterwards.
        """
        transport = self.transport
        if transport is None or transport.is_closing() or self._descriptor < 0:
            return
        if transport.get_write_buffer_size():
            return
        data = b"".join(self._out)
        try:
            written = os.write(self._descriptor, data)
        except OSError:  # full or closed: the loop handles it
            return
        self._out.clear()
        self._unsent = 0
        if written < len(data):
            transport.write(data[written:])
        self._out.append(b"")  # `_flush` is already scheduled

    def _flush(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(b"".join(self._out))
        self._out.clear()
        self._unsent = 0

    @property
    def closed(self) -> bool:
        """Whether no more replies will come."""
        return self.transport is None or self.transport.is_closing()

    def abort(self) -> None:
        """Close at once; waiting commands fail."""
        if self.transport is not None:
            self.transport.abort()


def ignore(future: asyncio.Future[Any]) -> None:
    """A done callback for a future that is never awaited."""
    if not future.cancelled():
        future.exception()
