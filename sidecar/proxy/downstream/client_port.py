"""An address that clients connect to: its listener, its connections, and their deadlines.

The handler serves the requests: `proxy/handler.py` those of the data port, `decide/handler.py`
those of gateways.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from sidecar.metrics import Metrics
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.connection_limits import ConnectionLimits
from sidecar.proxy.downstream.faults import Fault
from sidecar.proxy.downstream.listener import Listener
from sidecar.proxy.downstream.pending_heads import PendingHeads
from sidecar.proxy.downstream.request import Request

SWEEP_S: Final = 0.25
POLL_S: Final = 0.02


class RequestHandler(Protocol):
    """Serves the requests of all connections. A connection has one request served at a time."""

    def handle(self, request: Request, connection: ClientConnection) -> Awaitable[bool]:
        """Serve one request. Returns whether the connection can serve another."""
        ...

    def answer_fault(
        self, fault: Fault, request: Request | None, connection: ClientConnection
    ) -> None:
        """Reply to an invalid message; `request` is what could be parsed of it."""
        ...

    def handle_error(
        self, error: Exception, request: Request | None, connection: ClientConnection
    ) -> None:
        """Log an internal error and reply. `request` is the one that was being served."""
        ...


class ClientPort:
    """Owns the listener and the client connections.

    Implements `ConnectionOwner` for the connections and `Acceptor` for the listener. `trusts`:
    whether an address is that of a trusted proxy. `on_sweep` is called four times per second with
    the loop's time.
    """

    def __init__(
        self,
        handler: RequestHandler,
        bounds: Bounds,
        *,
        trusts: Callable[[str], bool],
        per_address: int = 0,
        max_age: float = 0.0,
        on_sweep: Callable[[float], None] | None = None,
    ) -> None:
        self.bounds = bounds
        self.draining = False
        self.unfinished: set[asyncio.Future[None]] = set()
        self.answer_fault = handler.answer_fault
        self.handle_error = handler.handle_error
        self.trusts = trusts
        self.limits: ConnectionLimits[ClientConnection] = ConnectionLimits(
            bounds.max_connections,
            per_address=per_address,
            max_age=max_age,
            exempt=trusts,
            evict=_end_silent,
        )
        self.heads: PendingHeads[ClientConnection] = PendingHeads(
            bounds.pending_heads, bounds.pending_heads_per_address
        )
        self._handler = handler
        self._on_sweep = on_sweep
        self._listener: Listener | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def connections(self) -> int:
        """The number of open client connections, including those in a TLS handshake."""
        return len(self.limits)

    @property
    def port(self) -> int:
        """The TCP port, also if the settings ask for port 0; 0 for a unix socket."""
        return self._listener.port if self._listener else 0

    async def start(self, listener: Listener) -> None:
        """Listen. Raises SettingsError if the address is unavailable."""
        await listener.start(self)
        self._listener = listener
        self._sweep()

    def publish(self, metrics: Metrics, prefix: str) -> None:
        """Publish the metrics of the connections, with this prefix of their names."""
        metrics.labelled_counter(
            f"{prefix}_connections_refused",
            "Connections closed at once.",
            ("reason",),
            self._refused,
        )

    def _refused(self) -> dict[tuple[str, ...], float]:
        return {(reason,): float(count) for reason, count in self.limits.refused.items()}

    # the end, in this order

    async def drain(self, delay: float, hurry: asyncio.Event) -> None:
        """Close each connection with its next response, for `delay` seconds; then the listener."""
        self.draining = True
        await wait_until(self._loop.time() + delay, hurry, _never)
        self.limits.closed = True
        if self._listener is not None:
            await self._listener.stop()

    def is_empty(self) -> bool:
        """Close idle connections. Returns whether none is left."""
        for connection in self.limits.all():
            connection.close_if_idle()
        return not self.limits and not self.unfinished

    async def end(
        self, drain: float, hurry: asyncio.Event, is_done: Callable[[], bool] | None = None
    ) -> None:
        """Give running requests `drain` seconds, and abort those that are left.

        `is_done`: whether everything else that has this time is done.
        """

        def drained() -> bool:
            return self.is_empty() and (is_done is None or is_done())

        await wait_until(self._loop.time() + drain, hurry, drained)
        for connection in self.limits.all():
            connection.abort()

    async def close(self) -> None:
        """End responses that are read after their clients left, and stop the sweeper."""
        while self.unfinished:
            for done in self.unfinished:
                if not done.done():
                    done.set_result(None)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in self.limits.all():
            if connection.deadline and now >= connection.deadline:
                connection.on_deadline()
            elif connection.left_while_waiting():
                connection.abort()
            elif self.limits.is_overdue(connection, now):
                connection.close_if_idle()
        if self._on_sweep is not None:
            self._on_sweep(now)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    # for the listener

    def new_connection(self) -> ClientConnection:
        """The protocol of an accepted connection."""
        return ClientConnection(self, self._loop)

    def take_slot(self, protocol: ClientConnection, peer: object) -> bool:
        """Whether there is a slot for a connection that begins with a handshake."""
        return self.limits.take(protocol, peer, self._loop.time())

    def free_slot(self, protocol: ClientConnection) -> None:
        """Free the slot of a connection whose handshake failed."""
        self.limits.free(protocol)

    # for the connections

    def opened(self, connection: ClientConnection, peer: object) -> bool:
        """Whether a new connection may stay. `peer` is the socket's peer name."""
        limits = self.limits
        if connection in limits:
            if limits.closed:
                return False
        elif not limits.take(connection, peer, self._loop.time()):
            return False
        limits.watch(connection)
        return True

    def closed(self, connection: ClientConnection) -> None:
        """Free the slot of a connection that has closed."""
        self.limits.free(connection)
        self.heads.remove(connection)

    def head_pending(self, connection: ClientConnection, size: int) -> None:
        """Note the estimated memory of a connection's unfinished head; 0: it is complete."""
        address = self.limits.address_of(connection)
        for other in self.heads.change(connection, address, size):
            other.give_up_head()

    def handle(self, request: Request, connection: ClientConnection) -> Awaitable[bool]:
        """Serve one request. Returns whether the connection can serve another."""
        if connection.silent:
            connection.silent = False
            self.limits.spoke(connection)
        if self.limits.max_age and self.limits.is_expired(connection, self._loop.time()):
            connection.expired = True
        return self._handler.handle(request, connection)


def _never() -> bool:
    return False


def _end_silent(connection: ClientConnection) -> None:
    connection.abort()


async def wait_until(end: float, hurry: asyncio.Event, done: Callable[[], bool]) -> None:
    """Wait until loop time `end`, `hurry` or `done`, whichever is first."""
    loop = asyncio.get_running_loop()
    while not done() and not hurry.is_set() and (left := end - loop.time()) > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), min(POLL_S, left))
