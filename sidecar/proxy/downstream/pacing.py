"""The client's end of the wire: written to, read from and waited for, each within its bounds.

What the bytes mean is said in `server.py`; here is only how fast they have to move.
"""

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
import termios
from typing import Final, Protocol

from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.request import Request

RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close at once, by a reset


class Flow(Protocol):
    """Who wants to know when the client is slower than what is written to it."""

    def client_writable(self, writable: bool) -> None: ...


class PacedConnection(asyncio.Protocol):
    """A client's transport, and until when it is waited for."""

    # There are thousands of these, most of them idle or waiting.
    __slots__ = (
        "_body_from", "_body_started", "_drained", "_reading", "_unread", "bounds", "deadline",
        "flow", "loop", "lost", "transport", "write_paused",
    )  # fmt: skip

    def __init__(self, bounds: Bounds, loop: asyncio.AbstractEventLoop) -> None:
        self.bounds = bounds
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.deadline = 0.0  # loop time at which the sweeper loses patience; 0: never
        self.lost = False
        self.flow: Flow | None = None
        self.write_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._unread = 0  # by the client, when we last looked
        self._reading = True
        self._body_started = 0.0
        self._body_from = 0

    # the client's reading

    def write(self, data: bytes) -> None:
        """Queue bytes for the client."""
        if self.transport is not None and not self.lost:
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.transport is not None:
            self._unread = unread_bytes(self.transport)
        if self.flow is not None:
            self.flow.client_writable(False)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.flow is not None:
            self.flow.client_writable(True)

    async def wait_drained(self) -> None:
        """No more is written to a client that has not taken the answers it got."""
        self.deadline = self.loop.time() + self.bounds.body_timeout
        self._drained = self.loop.create_future()
        await self._drained
        self.deadline = 0.0

    def reads_fast_enough(self) -> bool:
        """Whether the client has taken what we wrote at `min_rate` since we last looked. If so, it
        has the same time again."""
        assert self.transport is not None  # noqa: S101 - callers checked
        before, self._unread = self._unread, unread_bytes(self.transport)
        patience = self.bounds.body_timeout
        if before - self._unread < self.bounds.min_rate * patience:
            return False
        self.deadline = self.loop.time() + patience
        return True

    # the client's writing

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

    # the end

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


def unread_bytes(transport: asyncio.Transport) -> int:
    """Bytes in our buffer and in the kernel's, until the client's kernel has taken them.

    Our buffer alone would not do: the kernel takes megabytes, and then says nothing for as
    long as a slow client needs for a third of them (tcp(7), SIOCOUTQ, which is TIOCOUTQ).
    """
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # closed in the meantime
            waiting += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return waiting


GONE: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


def peer_closed(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its side, or the connection is broken."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    look = select.poll()
    with contextlib.suppress(OSError):  # closed in the meantime
        look.register(sock.fileno(), select.POLLRDHUP)
        return any(events & GONE for _, events in look.poll(0))
    return True
