"""Passes bytes both ways after a 101 response (RFC 9110, section 7.8). Counts and bounds them.

Backpressure works as in an exchange: a side that cannot take more pauses the reading of the other.
A tunnel ends when a side ends, after `tunnel_idle` without bytes, after `tunnel_lifetime`, on
drain, or by `close`.
"""

import asyncio
from collections.abc import Callable

from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.upstream.connection import UpstreamConnection


class Tunnel:
    """Implements `DownstreamTunnel` and `UpstreamTunnel`. Calls `on_end` once."""

    def __init__(
        self,
        client: ClientConnection,
        upstream: UpstreamConnection,
        bounds: Bounds,
        on_end: Callable[[], None],
    ) -> None:
        self.bytes_in = 0  # from the client
        self.bytes_out = 0
        self._client = client
        self._upstream = upstream
        self._idle = bounds.tunnel_idle
        self._drain_timeout = bounds.body_timeout
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._timer = self._loop.call_later(bounds.tunnel_lifetime, self.close)

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
        self.bytes_in += len(data)
        self._touch()
        self._upstream.write(data)

    def from_upstream(self, data: bytes) -> None:
        """Pass bytes to the client."""
        self.bytes_out += len(data)
        self._touch()
        self._client.write(data)

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

    def client_ended(self) -> None:
        """Close: the client sends no more."""
        self.close()

    def upstream_ended(self) -> None:
        """Close: the upstream sends no more."""
        self.close()

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
