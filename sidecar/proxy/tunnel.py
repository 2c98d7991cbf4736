"""Passes bytes both ways after a 101 response (RFC 9110, section 7.8). Counts and bounds them.

Backpressure works as in an exchange: a side that cannot take more pauses the reading of the other.
If one side sends no more, the other is notified and may go on (RFC 9293, section 3.6). A tunnel
ends when both have ended or one is lost, after `tunnel_idle` without bytes (less if one side has
ended), after `tunnel_lifetime`, on drain, or if its quota is used up. If the sidecar ends a
WebSocket, both sides get a Close frame.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.upstream.connection import UpstreamConnection
from sidecar.proxy.websocket_frames import (
    GOING_AWAY,
    POLICY_VIOLATION,
    FrameBoundary,
    close_frame,
)

WEBSOCKET: Final = b"websocket"


class Tunnel:
    """Implements `DownstreamTunnel` and `UpstreamTunnel`. Calls `on_end` once."""

    def __init__(
        self,
        client: ClientConnection,
        upstream: UpstreamConnection,
        bounds: Bounds,
        protocol: bytes,
        on_end: Callable[[], None],
    ) -> None:
        self.bytes_in = 0  # from the client
        self.bytes_out = 0
        self._client = client
        self._upstream = upstream
        self._idle = bounds.tunnel_idle
        self._short_idle = min(bounds.tunnel_idle, bounds.body_timeout)  # after a half-close
        self._linger = bounds.linger
        self._drain_timeout = bounds.body_timeout
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._ending = False  # Close frames are sent: what still comes is dropped
        self._client_done = self._upstream_done = False  # it sends no more
        followed = protocol == WEBSOCKET
        self._frames_in = FrameBoundary() if followed else None  # from the client
        self._frames_out = FrameBoundary() if followed else None
        self._timer = self._loop.call_later(bounds.tunnel_lifetime, self.going_away)

    def start(self, from_client: bytes, from_upstream: bytes) -> None:
        """Take over both connections, and pass on what each side has sent already."""
        self._client.tunnel = self._upstream.tunnel = self
        self._client.flow = self
        if from_upstream:
            self.from_upstream(from_upstream)
        if from_client:
            self.from_client(from_client)
        self._client.resume_reading()
        self._touch()

    def _touch(self) -> None:
        self._client.deadline = self._loop.time() + self._idle

    def from_client(self, data: bytes) -> None:
        """Pass bytes to the upstream."""
        if self._ending:
            return
        self.bytes_in += len(data)
        self._touch()
        self._upstream.write(data)
        if self._frames_in is not None:
            self._frames_in.feed(data)

    def from_upstream(self, data: bytes) -> None:
        """Pass bytes to the client."""
        if self._ending:
            return
        self.bytes_out += len(data)
        self._touch()
        self._client.write(data)
        if self._frames_out is not None:
            self._frames_out.feed(data)

    def upstream_writable(self, writable: bool) -> None:
        """Apply backpressure from the upstream."""
        if writable:
            self._client.resume_reading()
        else:
            self._client.pause_reading()

    def client_writable(self, writable: bool) -> None:
        """Apply backpressure from the client."""
        if writable:
            self._upstream.resume_reading()
        else:
            self._upstream.pause_reading()

    # ends by one side

    def client_ended(self) -> None:
        """Pass on that the client sends no more. The upstream may."""
        self._client_done = True
        self._half_close(self._upstream.transport)

    def upstream_ended(self) -> None:
        """Pass on that the upstream sends no more. The client may."""
        self._upstream_done = True
        self._half_close(self._client.transport)

    def _half_close(self, receiver: asyncio.Transport | None) -> None:
        if self._client_done and self._upstream_done:
            self.close()
        elif not self._ending:
            if not _write_eof(receiver):
                self.close()
                return
            self._idle = self._short_idle
            self._touch()

    # ends by the sidecar

    def going_away(self) -> None:
        """End: idle, too old, or on drain. Idempotent."""
        self._end(GOING_AWAY, b"")

    def quota_used_up(self) -> None:
        """End: the plan closes tunnels whose quota is used up. Idempotent."""
        self._end(POLICY_VIOLATION, b"quota used up")

    def _end(self, code: int, reason: bytes) -> None:
        """Send Close frames where one fits, and close after `linger` or when both sides have."""
        if not self._open or self._ending:
            return
        self._ending = True
        to_client, to_upstream = self._frames_out, self._frames_in
        sent = False
        if to_client is not None and to_client.between_frames and not self._upstream_done:
            self._client.write(close_frame(code, reason, masked=False))
            sent = True
        if to_upstream is not None and to_upstream.between_frames and not self._client_done:
            self._upstream.write(close_frame(code, reason, masked=True))
            sent = True
        if not sent or not self._shut_both():
            self.close()
            return
        # The sides are read until they close: a reset would take the Close frame away.
        self._client.resume_reading()
        self._upstream.resume_reading()
        self._client.deadline = 0.0
        self._timer.cancel()
        self._timer = self._loop.call_later(self._linger, self.close)

    def _shut_both(self) -> bool:
        """Send no more to both sides. Returns False if a side cannot be half-closed."""
        return (self._upstream_done or _write_eof(self._client.transport)) and (
            self._client_done or _write_eof(self._upstream.transport)
        )

    def close(self) -> None:
        """Close both sides; bytes that are written are still delivered. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._timer.cancel()
        self._client.tunnel = self._upstream.tunnel = None
        self._client.flow = None
        self._client.deadline = 0.0
        self._upstream.deadline = self._loop.time() + self._drain_timeout  # to deliver the rest
        for transport in (self._upstream.transport, self._client.transport):
            if transport is not None:
                transport.close()
        self._on_end()


def _write_eof(transport: asyncio.Transport | None) -> bool:
    """Half-close. Returns False if that is impossible: with TLS, or if the connection is lost."""
    if transport is None or not transport.can_write_eof():
        return False
    try:
        transport.write_eof()
    except OSError:
        return False
    return True
