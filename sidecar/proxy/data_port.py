"""The data port: accepts connections, sweeps for overdue ones, and runs each request through."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from sidecar.metrics import Metrics
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.connection_limits import ConnectionLimits
from sidecar.proxy.downstream.listener import Listener
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.handler import Handler
from sidecar.proxy.upstream.pool import UpstreamPool

SWEEP_S = 0.25
POLL_S = 0.02


class RunningJobs(Protocol):
    """What else goes to the API by the pool, for nobody who waits: ended with the calls."""

    @property
    def running(self) -> int: ...
    def hold(self) -> None:
        """Start no more."""
        ...

    async def cut(self) -> None:
        """End what runs."""
        ...


class DataPort:
    """Owns the listener, the connections and the pool; asks the gate about every request."""

    def __init__(
        self,
        handler: Handler,
        pool: UpstreamPool,
        bounds: Bounds,
        metrics: Metrics,
        *,
        per_address: int = 0,
        max_age: float = 0.0,
        jobs: RunningJobs | None = None,
    ) -> None:
        self.bounds = bounds
        self.draining = False
        self.refuse = handler.refuse
        self.failed = handler.failed
        self._handler = handler
        self._pool = pool
        self._metrics = metrics
        self._limits: ConnectionLimits[ClientConnection] = ConnectionLimits(
            bounds.max_connections, per_address=per_address, max_age=max_age
        )
        self._jobs = jobs
        self._listener: Listener | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def connections(self) -> int:
        """Client connections open now, those in a TLS handshake included."""
        return len(self._limits)

    async def start(self, listener: Listener) -> None:
        """Listen. Raises SettingsError when the address cannot be had."""
        await listener.start(self)
        self._listener = listener
        listener.publish(self._metrics)
        self._metrics.labelled_counter(
            "sidecar_connections_refused", "Connections closed at once.", ("reason",), self._refused
        )
        self._sweep()

    def _refused(self) -> dict[tuple[str, ...], float]:
        return {(reason,): float(count) for reason, count in self._limits.refused.items()}

    @property
    def port(self) -> int:
        """The TCP port listened on (useful after asking for port 0); 0 for a unix socket."""
        return self._listener.port if self._listener else 0

    async def stop(self, delay: float, drain: float, hurry: asyncio.Event) -> None:
        """End, and lose nothing: for `delay` seconds every answer says goodbye while new
        connections are still taken, so that clients and balancers move on; then none is, and
        what runs has `drain` seconds to finish. `hurry` ends both waits."""
        self.draining = True
        if self._jobs is not None:
            self._jobs.hold()
        await _until(self._loop.time() + delay, hurry, lambda: False)
        self._limits.closed = True
        if self._listener is not None:
            await self._listener.stop()

        def gone() -> bool:
            for connection in self._limits.all():
                connection.close_if_idle()
            return not self._limits and not (self._jobs and self._jobs.running)

        await _until(self._loop.time() + drain, hurry, gone)
        for connection in self._limits.all():
            connection.abort()
        if self._jobs is not None:
            await self._jobs.cut()
        await asyncio.sleep(0)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._pool.close()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in self._limits.all():
            if connection.deadline and now >= connection.deadline:
                connection.overdue()
            elif connection.left_while_waiting():
                connection.abort()
            elif self._limits.is_overdue(connection, now):
                connection.close_if_idle()
        self._pool.sweep(now)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    # what the listener and the connections ask for

    def make(self) -> ClientConnection:
        """The protocol of a connection that has just been accepted."""
        return ClientConnection(self, self._loop)

    def arrives(self, protocol: ClientConnection, peer: object) -> bool:
        """Whether there is room for a connection that will begin with a handshake."""
        return self._limits.take(protocol, peer, self._loop.time())

    def leaves(self, protocol: ClientConnection) -> None:
        """The handshake failed."""
        self._limits.free(protocol)

    def opened(self, connection: ClientConnection) -> bool:
        """A new client connection; False when it may not stay."""
        if connection in self._limits:
            return not self._limits.closed
        assert connection.transport is not None  # noqa: S101 - it has just been made
        peer = connection.transport.get_extra_info("peername")
        return self._limits.take(connection, peer, self._loop.time())

    def closed(self, connection: ClientConnection) -> None:
        """The connection is gone."""
        self._limits.free(connection)

    def handle(self, request: Request, connection: ClientConnection) -> Awaitable[bool]:
        """The life of a request. Returns whether the connection can take another."""
        if self._limits.is_expired(connection, self._loop.time()):
            connection.old = True  # this answer is its last
        return self._handler.handle(request, connection)


async def _until(end: float, hurry: asyncio.Event, done: Callable[[], bool]) -> None:
    """Wait for the first of the three; `end` is loop time."""
    loop = asyncio.get_running_loop()
    while not done() and not hurry.is_set() and (left := end - loop.time()) > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), min(POLL_S, left))
