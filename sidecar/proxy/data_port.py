"""The data port: accepts connections, ends overdue waits, and serves each request."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from sidecar.metrics import Metrics
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.connection_limits import ConnectionLimits
from sidecar.proxy.downstream.listener import Listener
from sidecar.proxy.downstream.pending_heads import PendingHeads
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.handler import Handler
from sidecar.proxy.upstream.pool import UpstreamPool

SWEEP_S: Final = 0.25
POLL_S: Final = 0.02


class RunningJobs(Protocol):
    """Deferred jobs, which use the pool as well. They end with the data port."""

    @property
    def running(self) -> int: ...
    def pause(self) -> None:
        """Start no further job."""
        ...

    async def cancel(self) -> None:
        """Cancel the running jobs."""
        ...


class DataPort:
    """Owns the listener, the client connections and the pool.

    Implements `ConnectionOwner` for the connections and `Acceptor` for the listener.
    """

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
        self.unfinished: set[asyncio.Future[None]] = set()
        self.answer_fault = handler.answer_fault
        self.handle_error = handler.handle_error
        self._handler = handler
        self._pool = pool
        self._metrics = metrics
        self._limits: ConnectionLimits[ClientConnection] = ConnectionLimits(
            bounds.max_connections,
            per_address=per_address,
            max_age=max_age,
            exempt=handler.options.trusts,
            evict=_end_silent,
        )
        self._heads: PendingHeads[ClientConnection] = PendingHeads(
            bounds.pending_heads, bounds.pending_heads_per_address
        )
        self.trusts = handler.options.trusts
        self._jobs = jobs
        self._listener: Listener | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def connections(self) -> int:
        """The number of open client connections, including those in a TLS handshake."""
        return len(self._limits)

    async def start(self, listener: Listener) -> None:
        """Listen. Raises SettingsError if the address is unavailable."""
        await listener.start(self)
        self._listener = listener
        listener.publish(self._metrics)
        self._metrics.labelled_counter(
            "sidecar_connections_refused", "Connections closed at once.", ("reason",), self._refused
        )
        self._publish()
        self._sweep()

    def _publish(self) -> None:
        self._metrics.counter(
            "sidecar_connections_evicted",
            "Connections without a request that were closed for a new connection.",
            lambda: self._limits.evicted,
        )
        self._metrics.gauge(
            "sidecar_pending_header_bytes",
            "Memory of request headers that are not complete yet.",
            lambda: self._heads.total,
        )
        self._metrics.counter(
            "sidecar_pending_headers_refused",
            "Requests that were refused before their header was complete, to free memory.",
            lambda: self._heads.given_up,
        )

    def _refused(self) -> dict[tuple[str, ...], float]:
        return {(reason,): float(count) for reason, count in self._limits.refused.items()}

    @property
    def port(self) -> int:
        """The TCP port, also if the settings ask for port 0; 0 for a unix socket."""
        return self._listener.port if self._listener else 0

    def announce_end(self) -> None:
        """Accept requests, but close each connection after its response, and start no job."""
        self.draining = True
        if self._jobs is not None:
            self._jobs.pause()

    async def stop(self, delay: float, drain: float, hurry: asyncio.Event) -> None:
        """End without losing a request.

        For `delay` seconds, the port accepts connections, and each response closes its connection,
        so that clients and load balancers move on. Then it accepts none, and running requests have
        `drain` seconds to finish. `hurry` ends both waits.
        """
        self.announce_end()
        await _wait_until(self._loop.time() + delay, hurry, lambda: False)
        self._limits.closed = True
        if self._listener is not None:
            await self._listener.stop()

        def drained() -> bool:
            for connection in self._limits.all():
                connection.close_if_idle()
            running = self._jobs is not None and self._jobs.running
            return not self._limits and not self.unfinished and not running

        await _wait_until(self._loop.time() + drain, hurry, drained)
        for connection in self._limits.all():
            connection.abort()
        if self._jobs is not None:
            await self._jobs.cancel()
        while self.unfinished:
            for done in self.unfinished:
                if not done.done():
                    done.set_result(None)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._pool.close()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in self._limits.all():
            if connection.deadline and now >= connection.deadline:
                connection.on_deadline()
            elif connection.left_while_waiting():
                connection.abort()
            elif self._limits.is_overdue(connection, now):
                connection.close_if_idle()
        self._pool.sweep(now)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    # for the listener

    def new_connection(self) -> ClientConnection:
        """The protocol of an accepted connection."""
        return ClientConnection(self, self._loop)

    def take_slot(self, protocol: ClientConnection, peer: object) -> bool:
        """Whether there is a slot for a connection that begins with a handshake."""
        return self._limits.take(protocol, peer, self._loop.time())

    def free_slot(self, protocol: ClientConnection) -> None:
        """Free the slot of a connection whose handshake failed."""
        self._limits.free(protocol)

    # for the connections

    def opened(self, connection: ClientConnection, peer: object) -> bool:
        """Whether a new connection may stay. `peer` is the socket's peer name."""
        limits = self._limits
        if connection in limits:
            if limits.closed:
                return False
        elif not limits.take(connection, peer, self._loop.time()):
            return False
        limits.watch(connection)
        return True

    def closed(self, connection: ClientConnection) -> None:
        """Free the slot of a connection that has closed."""
        self._limits.free(connection)
        self._heads.remove(connection)

    def head_pending(self, connection: ClientConnection, size: int) -> None:
        """Note the estimated memory of a connection's unfinished head; 0: it is complete."""
        address = self._limits.address_of(connection)
        for other in self._heads.change(connection, address, size):
            other.give_up_head()

    def handle(self, request: Request, connection: ClientConnection) -> Awaitable[bool]:
        """Serve one request. Returns whether the connection can serve another."""
        if connection.silent:
            connection.silent = False
            self._limits.spoke(connection)
        if self._limits.is_expired(connection, self._loop.time()):
            connection.expired = True
        return self._handler.handle(request, connection)


def _end_silent(connection: ClientConnection) -> None:
    connection.abort()


async def _wait_until(end: float, hurry: asyncio.Event, done: Callable[[], bool]) -> None:
    """Wait until loop time `end`, `hurry` or `done`, whichever is first."""
    loop = asyncio.get_running_loop()
    while not done() and not hurry.is_set() and (left := end - loop.time()) > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), min(POLL_S, left))
