"""How fast a client connection has to move: writing, reading and their deadlines.

What the bytes mean is in `connection.py`.
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

_RESET: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: close at once, with a reset
_GONE: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Flow(Protocol):
    """Callbacks for backpressure from the client."""

    def client_writable(self, writable: bool) -> None: ...


class PacedConnection(asyncio.Protocol):
    """A client's transport with a deadline for the current wait."""

    # There are thousands of these, most of them idle or waiting: slots save memory.
    __slots__ = (
        "_body_from", "_body_started", "_drained", "_reading", "_unread", "bounds", "deadline",
        "flow", "loop", "lost", "transport", "write_paused",
    )  # fmt: skip

    def __init__(self, bounds: Bounds, loop: asyncio.AbstractEventLoop) -> None:
        self.bounds = bounds
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.deadline = 0.0  # loop time at which the sweeper ends the wait; 0: never
        self.lost = False
        self.flow: Flow | None = None
        self.write_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._unread = 0  # bytes that the client had not read at the last check
        self._reading = True
        self._body_started = 0.0
        self._body_from = 0

    # sidecar → client

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
        """Wait until the client has read its responses, before more are written."""
        self.deadline = self.loop.time() + self.bounds.body_timeout
        self._drained = self.loop.create_future()
        await self._drained
        self.deadline = 0.0

    def reads_fast_enough(self, transport: asyncio.Transport) -> bool:
        """Whether the client has read at `min_rate` since the last check.

        If so, the deadline moves by `body_timeout`.
        """
        before, self._unread = self._unread, unread_bytes(transport)
        timeout = self.bounds.body_timeout
        if before - self._unread < self.bounds.min_rate * timeout:
            return False
        self.deadline = self.loop.time() + timeout
        return True

    # client → sidecar

    def pause_reading(self) -> None:
        """Stop reading from the client. Idempotent."""
        if self._reading and self.transport is not None and not self.lost:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again. Idempotent."""
        if not self._reading and self.transport is not None and not self.lost:
            self._reading = True
            self.transport.resume_reading()

    def await_body(self, request: Request) -> None:
        """Set the deadline for more of the body.

        It bounds a stall, and the average rate (against slowloris).
        """
        now = self.loop.time()
        if not self._body_started:
            self._body_started, self._body_from = now, request.body_bytes
        earned = (request.body_bytes - self._body_from) / self.bounds.min_rate
        timeout = self.bounds.body_timeout
        self.deadline = min(now, self._body_started + earned) + timeout

    def hold_body(self) -> None:
        """Stop reading the body: the upstream is slower. The client then has no deadline."""
        self.pause_reading()
        self.deadline = 0.0
        self._body_started = 0.0

    # the end

    def abort(self) -> None:
        """Drop the connection with a reset: the only way to mark a started response as broken.

        An orderly close would not do: in HTTP/1.0 it marks the end of a whole response.
        """
        transport = self.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and not self.lost:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()


def unread_bytes(transport: asyncio.Transport) -> int:
    """The bytes that the client's kernel has not taken yet: in the transport and in this kernel.

    The transport's buffer alone would not do. The kernel takes megabytes, and then reports no
    progress until a slow client has read a third of them (tcp(7), SIOCOUTQ, which is TIOCOUTQ).
    """
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # it was closed
            size += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return size


def peer_closed(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its side, or the connection is broken."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    poll = select.poll()
    with contextlib.suppress(OSError):  # it was closed
        poll.register(sock.fileno(), select.POLLRDHUP)
        return any(events & _GONE for _, events in poll.poll(0))
    return True
