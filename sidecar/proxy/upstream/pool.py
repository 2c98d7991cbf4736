"""The pool of upstream connections: reused, bounded in number, some for critical requests only.

Load balancing stays with the platform. The pool resolves the upstream's name every few seconds.
Connections to an address that the name has lost get no further request.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Final

from sidecar.core.settlement import OutcomeReason
from sidecar.logs import logger
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.upstream.address import Upstream
from sidecar.proxy.upstream.connection import UpstreamConnection
from sidecar.proxy.upstream.fair_queue import FairQueue, Turn
from sidecar.proxy.upstream.reachability import Reachability

log = logger("proxy")

RESOLVE_S: Final = 5.0
MOSTLY_SLOW: Final = 4  # divides the stall timeout if most connections wait for slow clients


class UpstreamFailed(Exception):
    """The upstream gave no usable response."""

    def __init__(self, reason: OutcomeReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


class UpstreamPool:
    """Idle connections are reused last in, first out.

    `critical_connections` of them are for critical requests only, so that a slow API still serves
    these in a flood of others. Implements `ConnectionPool`.
    """

    def __init__(self, upstream: Upstream, bounds: Bounds) -> None:
        self.bounds = bounds
        self.preempted = 0  # exchanges with slow clients that were ended for other requests
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self._loop.time
        self.reachability = Reachability(str(upstream), lambda: self.now())
        self._idle: deque[UpstreamConnection] = deque()
        self._all: set[UpstreamConnection] = set()
        self._connecting = 0
        self._queued = 0  # requests that wait for a connection or have just got their turn
        self._promised = 0  # connections of requests that have just got their turn
        self._waiting = (FairQueue(), FairQueue(), FairQueue())  # critical, standard, deferrable
        self._shared = bounds.upstream_connections - min(
            bounds.critical_connections, bounds.upstream_connections - 1
        )
        self._addresses: frozenset[str] = frozenset()
        self._resolving: asyncio.Task[None] | None = None
        self._resolve_at = 0.0

    @property
    def size(self) -> int:
        """Open connections, idle ones included."""
        return len(self._all)

    @property
    def idle(self) -> int:
        """Idle connections."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return sum(map(len, self._waiting))

    @property
    def _in_use(self) -> int:
        return len(self._all) + self._connecting + self._promised - len(self._idle)

    def take_idle(self, *, critical: bool) -> UpstreamConnection | None:
        """The most recently used idle connection that such a request may use, or None."""
        if not critical and self._in_use >= self._shared:
            return None
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
        return None

    async def acquire(
        self, *, critical: bool, deferrable: bool = False, account: str = ""
    ) -> UpstreamConnection:
        """Get a connection: an idle one, a new one, or the next one that is released.

        If there are not enough, critical requests come first and deferrable ones last, and
        accounts take turns. Raises UpstreamFailed after `connect_timeout` without a connection.
        """
        limit = self.bounds.upstream_connections if critical else self._shared
        turns = self._waiting[0 if critical else 2 if deferrable else 1]
        since = self.now()
        while self._in_use >= limit:
            if not self._preempt_slow_client():
                await self._wait_turn(turns, account, since)
        return self.take_idle(critical=critical) or await self.connect()

    async def _wait_turn(self, turns: FairQueue, account: str, since: float) -> None:
        """Wait for a turn. The connection stays reserved until the caller next awaits.

        Raises UpstreamFailed after `connect_timeout`.
        """
        turn: Turn = self._loop.create_future()
        turns.join(account, since, turn)
        self._queued += 1
        taken = False
        try:
            async with asyncio.timeout_at(since + self.bounds.connect_timeout):
                await turn
            taken = True
        except TimeoutError:
            detail = "All connections to the API are in use."
            self.reachability.response_missing(detail)
            raise UpstreamFailed(OutcomeReason.OVERLOADED, detail) from None
        finally:
            turns.leave(account, turn)
            self._queued -= 1
            if turn.done() and not turn.cancelled():
                self._promised -= 1
                if not taken:
                    self._wake_next()

    def _preempt_slow_client(self) -> bool:
        """End the exchange of the slowest client. Returns False if no client is slow enough.

        A slow client keeps its connection while no other request needs it, and for less time if
        most clients are slow.
        """
        now, timeout = self.now(), self.bounds.stall_timeout
        slow = [
            (waited, connection)
            for connection in self._all
            if connection.receiver is not None
            and (waited := connection.receiver.client_stall_s(now)) > timeout / MOSTLY_SLOW
        ]
        if not slow:
            return False
        waited, slowest = max(slow, key=itemgetter(0))
        if slowest.receiver is None or (waited < timeout and len(slow) * 2 <= self._in_use):
            return False
        self.preempted += 1
        slowest.receiver.preempt()
        self._all.discard(slowest)  # no waiting request is woken: the caller takes the connection
        return True

    async def connect(self) -> UpstreamConnection:
        """Open a connection. Raises UpstreamFailed."""
        self._connecting += 1
        try:
            async with asyncio.timeout(self.bounds.connect_timeout):
                connection = await self._open()
        except TimeoutError:
            self._wake_next()
            self.reachability.connect_failed("no connection was accepted in time")
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_TIMEOUT, "The API did not accept a connection in time."
            ) from None
        except ssl.SSLError as insecure:
            self._wake_next()
            self.reachability.connect_failed(f"tls: {insecure.reason or insecure}")
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_REFUSED, "No secure connection to the API can be made."
            ) from None
        except OSError as error:
            self._wake_next()
            self.reachability.connect_failed(error.strerror or str(error))
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_REFUSED, "No connection to the API can be made."
            ) from None
        finally:
            self._connecting -= 1
        self.reachability.connected()
        self._all.add(connection)
        return connection

    async def _open(self) -> UpstreamConnection:
        upstream = self._upstream
        name = upstream.server_name or (upstream.host if upstream.tls is not None else None)
        if upstream.path is not None:
            _, connection = await self._loop.create_unix_connection(
                lambda: UpstreamConnection(self),
                upstream.path,
                ssl=upstream.tls,
                server_hostname=name,
            )
            return connection
        _, connection = await self._loop.create_connection(
            lambda: UpstreamConnection(self),
            upstream.host,
            upstream.port,
            ssl=upstream.tls,
            server_hostname=name,
        )
        if upstream.is_name and connection.transport is not None:
            peer = connection.transport.get_extra_info("peername")
            connection.address = peer[0] if peer else ""
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Return a connection after a complete exchange."""
        if not connection.usable:
            connection.retire()
            return
        connection.resume_reading()
        connection.idle_since = self.now()
        self._idle.append(connection)
        if self._queued:
            self._wake_next()

    def remove(self, connection: UpstreamConnection) -> None:
        """Remove a closed connection."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._wake_next()

    def _wake_next(self) -> None:
        shared = self._shared
        limits = (self.bounds.upstream_connections, shared, shared)
        for turns, limit in zip(self._waiting, limits, strict=True):
            while turns and self._in_use < limit:
                turn = turns.take(self.now())
                if not turn.done():
                    self._promised += 1
                    turn.set_result(None)

    def sweep(self, now: float) -> None:
        """End overdue exchanges, close connections that are idle for too long, resolve the name."""
        self.reachability.sweep()
        for connection in list(self._all):
            if connection.deadline and now >= connection.deadline:
                connection.time_out()
        while self._idle and now - self._idle[0].idle_since > self.bounds.upstream_idle:
            self._idle.popleft().retire()
        while self.waiting and self._preempt_slow_client():
            self._wake_next()
        if self._all and self._upstream.is_name and now >= self._resolve_at:
            self._resolve_at = now + RESOLVE_S
            if self._resolving is None or self._resolving.done():
                self._resolving = self._loop.create_task(self._resolve())

    async def _resolve(self) -> None:
        """Retire connections to an address that the name has lost. A failure changes nothing."""
        upstream = self._upstream
        try:
            async with asyncio.timeout(RESOLVE_S):
                resolved = await self._loop.getaddrinfo(
                    upstream.host, upstream.port, type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError) as error:
            log.warning("upstream_name_unresolved", error=type(error).__name__)
            return
        addresses = frozenset(str(entry[4][0]) for entry in resolved)
        if self._addresses and addresses != self._addresses:
            log.info("upstream_addresses_changed", addresses=sorted(addresses))
        self._addresses = addresses
        for connection in list(self._all):
            if connection.address not in addresses:
                connection.usable = False
        for connection in [idle for idle in self._idle if not idle.usable]:
            connection.retire()

    def close(self) -> None:
        """Drop all connections."""
        if self._resolving is not None:
            self._resolving.cancel()
        for connection in list(self._all):
            connection.retire()
