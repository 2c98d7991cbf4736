"""After 101: bytes both ways, no longer HTTP (RFC 9110, section 7.8). Counted, and bounded.

Backpressure as in an exchange: who cannot take more stops the other's reading. It ends when
a side ends, when nothing has passed for `tunnel_idle`, after `tunnel_lifetime`, on
drain, or when whoever holds it calls `close`.
"""

import asyncio
from collections.abc import Callable

from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.upstream.connection import UpstreamConnection


class Tunnel:
    """Keeps `Raw` for both sides. Calls `ended` once."""

    def __init__(
        self,
        client: ClientConnection,
        upstream: UpstreamConnection,
        bounds: Bounds,
        ended: Callable[[], None],
    ) -> None:
        self.bytes_in = 0  # from the client
        self.bytes_out = 0
        self._client = client
        self._upstream = upstream
        self._idle = bounds.tunnel_idle
        self._drain_timeout = bounds.body_timeout
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._timer = self._loop.call_later(bounds.tunnel_lifetime, self.close)

    def start(self, from_client: bytes, from_upstream: bytes) -> None:
        """Take both sides over, beginning with what each had sent already."""
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
        """Bytes for the upstream."""
        self.bytes_in += len(data)
        self._touch()
        self._upstream.write(data)

    def from_upstream(self, data: bytes) -> None:
        """Bytes for the client."""
        self.bytes_out += len(data)
        self._touch()
        self._client.write(data)

    def upstream_writable(self, writable: bool) -> None:
        """Backpressure from the upstream."""
        if writable:
            self._client.resume_reading()
        else:
            self._client.pause_reading()

    def client_writable(self, writable: bool) -> None:
        """Backpressure from the client."""
        if writable:
            self._upstream.resume_reading()
        else:
            self._upstream.pause_reading()

    def client_ended(self) -> None:
        """The client sends no more: what is under way is delivered, then both ends close."""
        self.close()

    def upstream_ended(self) -> None:
        """The same for the upstream."""
        self.close()

    def close(self) -> None:
        """End it: what was written is still delivered. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._timer.cancel()
        self._client.tunnel = self._upstream.tunnel = None
        self._client.flow = None
        self._client.deadline = 0.0
        self._upstream.deadline = self._loop.time() + self._drain_timeout  # to take what is left
        for transport in (self._upstream.transport, self._client.transport):
            if transport is not None:
                transport.close()
        self._ended()
