"""The pool of upstream connections: reused, bounded in number, shared between accounts.

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
from sidecar.proxy.body_budget import BodyBudget
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.upstream.address import Upstream
from sidecar.proxy.upstream.connection import UpstreamConnection
from sidecar.proxy.upstream.places import CRITICAL, STANDARD, Places
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

    `Places` decides how many requests, and of which accounts, may use a connection. Requests for
    an upgrade have places of their own: a tunnel may last for hours. Sockets are at most as many
    as places. Implements `ConnectionPool`.
    """

    def __init__(self, upstream: Upstream, bounds: Bounds) -> None:
        self.bounds = bounds
        self.preempted = 0  # exchanges with slow clients that were ended for other requests
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self._loop.time
        self.reachability = Reachability(str(upstream), lambda: self.now())
        reserved, percent = bounds.critical_connections, bounds.account_percent
        self.places = Places(bounds.upstream_connections, reserved, percent, lambda: self.now())
        self.tunnels = Places(bounds.tunnels, reserved, percent, lambda: self.now())
        # For responses that are read after their client left.
        left = max(1, bounds.upstream_connections * bounds.usage_percent // 100)
        self.usage_reads = Places(left, 0, percent, lambda: self.now())
        self.usage_refused = 0  # such responses that were not read, for want of a place
        self.bodies = BodyBudget(bounds.small_bodies, percent, bounds.small_body)
        self._idle: deque[UpstreamConnection] = deque()
        self._all: set[UpstreamConnection] = set()  # open, without those of tunnels
        self._of_tunnels: set[UpstreamConnection] = set()
        self._connecting = 0  # without those of tunnels
        self._room = asyncio.Event()  # a socket has closed, or was not opened
        self._addresses: frozenset[str] = frozenset()
        self._resolving: asyncio.Task[None] | None = None
        self._resolve_at = 0.0

    def __repr__(self) -> str:
        return (
            f"<UpstreamPool {self._upstream}: {len(self._all)} open, {len(self._idle)} idle, "
            f"{self._connecting} connecting; {self.places!r}; tunnels: {self.tunnels!r}>"
        )

    @property
    def size(self) -> int:
        """Open connections, idle ones and those of tunnels included."""
        return len(self._all) + len(self._of_tunnels)

    @property
    def idle(self) -> int:
        """Idle connections."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return self.places.waiting + self.tunnels.waiting

    def take_idle(self, account: str, critical: bool) -> UpstreamConnection | None:
        """The most recently used idle connection, if there is a place for the account, or None."""
        if not self._idle or not self.places.take(account, critical):
            return None
        connection = self._idle.pop()
        if not connection.usable:
            self._idle.append(connection)
            self.places.free(account, critical=critical)
            return None  # `acquire` clears it away
        connection.reused = True
        connection.places, connection.account = self.places, account
        connection.critical = critical
        return connection

    def _pop_idle(self) -> UpstreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
            connection.retire()
        return None

    async def acquire(
        self, account: str = "", kind: int = STANDARD, *, tunnel: bool = False, fresh: bool = False
    ) -> UpstreamConnection:
        """Get a connection: an idle one, a new one, or the next one that is released.

        If there are not enough, critical requests come first and deferrable ones last, and
        accounts take turns. `fresh`: a new connection, as always for a `tunnel`. Raises
        UpstreamFailed after `connect_timeout` without a connection.
        """
        places = self.tunnels if tunnel else self.places
        critical = kind == CRITICAL
        if not places.take(account, critical=critical):
            if not tunnel:
                self._preempt_slow_client(account, critical=critical)
            await self._wait(places, account, kind)
        try:
            connection = await self._take_or_connect(places, tunnel=tunnel, fresh=fresh)
        except BaseException:  # not `finally`: compiled, it would read a connection that is None
            places.free(account, critical=critical)
            raise
        connection.places, connection.account, connection.critical = places, account, critical
        return connection

    async def _take_or_connect(
        self, places: Places, *, tunnel: bool, fresh: bool
    ) -> UpstreamConnection:
        """Return an idle connection or a new one, for a request that has a place."""
        if not tunnel:
            idle = None if fresh else self._pop_idle()
            if idle is None:
                await self._make_room()
                idle = None if fresh else self._pop_idle()
            if idle is not None:
                return idle
        return await self._connect(places)

    async def _wait(self, places: Places, account: str, kind: int) -> None:
        """Wait for a place. Raises UpstreamFailed after `connect_timeout`."""
        try:
            await places.wait(account, kind, self.now() + self.bounds.connect_timeout)
        except TimeoutError:
            name = "connections to the API" if places is self.places else "WebSockets of the API"
            if places.is_full(critical=kind == CRITICAL):
                detail = f"All {name} are in use."
            else:
                detail = f"This account uses its share of the {name}. Others keep theirs."
            self.reachability.response_missing(detail)
            raise UpstreamFailed(OutcomeReason.OVERLOADED, detail) from None

    async def _make_room(self) -> None:
        """Wait until a socket more does not exceed the bound: closing ones count until then.

        Raises UpstreamFailed after `connect_timeout`.
        """
        until = self.now() + self.bounds.connect_timeout
        while len(self._all) + self._connecting >= self.places.limit:
            self._room.clear()
            if self._idle:
                self._idle.popleft().retire()
            try:
                async with asyncio.timeout_at(until):
                    await self._room.wait()
            except TimeoutError:
                detail = "No connection to the API was closed in time for a new one."
                self.reachability.response_missing(detail)
                raise UpstreamFailed(OutcomeReason.OVERLOADED, detail) from None

    def _preempt_slow_client(self, account: str, *, critical: bool) -> bool:
        """End the exchange of the slowest client. Returns False if no client is slow enough.

        A slow client keeps its connection while no other request needs it, and for less time if
        most clients are slow. A request that exceeds the share of its account can only end
        requests of that account. Closing the connection frees its place.
        """
        now, timeout = self.now(), self.bounds.stall_timeout
        full = self.places.is_full(critical=critical)
        users = self.places.taken if full else self.places.held(account, critical=critical)
        slow = [
            (waited, connection)
            for connection in self._all
            if connection.receiver is not None
            and (full or (connection.account == account and connection.critical == critical))
            and (waited := connection.receiver.client_stall_s(now)) > timeout / MOSTLY_SLOW
        ]
        if not slow:
            return False
        waited, slowest = max(slow, key=itemgetter(0))
        if slowest.receiver is None or (waited < timeout and len(slow) * 2 <= users):
            return False
        self.preempted += 1
        slowest.receiver.preempt()
        return True

    def _preempt_for_waiting(self) -> None:
        """End one exchange with a slow client for each request that waits."""
        for critical in (True, False):
            for account, count in self.places.waiting_accounts(critical=critical):
                for _ in range(count):
                    if not self._preempt_slow_client(account, critical=critical):
                        if self.places.is_full(critical=critical):
                            return  # nor for other accounts
                        break

    async def _connect(self, places: Places) -> UpstreamConnection:
        """Open a connection, for a place that is taken. Raises UpstreamFailed."""
        ordinary = places is self.places
        self._connecting += ordinary
        try:
            async with asyncio.timeout(self.bounds.connect_timeout):
                connection = await self._open()
        except TimeoutError:
            self.reachability.connect_failed("no connection was accepted in time")
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_TIMEOUT, "The API did not accept a connection in time."
            ) from None
        except ssl.SSLError as insecure:
            self.reachability.connect_failed(f"tls: {insecure.reason or insecure}")
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_REFUSED, "No secure connection to the API can be made."
            ) from None
        except OSError as error:
            self.reachability.connect_failed(error.strerror or str(error))
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_REFUSED, "No connection to the API can be made."
            ) from None
        finally:
            self._connecting -= ordinary
            self._room.set()
        self.reachability.connected()
        if not connection.usable:  # it has closed already
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_BROKEN, "The API closed the connection unexpectedly."
            )
        (self._all if ordinary else self._of_tunnels).add(connection)
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
        places = connection.places
        if places is not self.places or not connection.usable:
            connection.retire()
            return
        if not connection.reading:
            connection.resume_reading()
        connection.idle_since = self.now()
        connection.places = None
        self._idle.append(connection)
        places.free(connection.account, connection.critical)

    def remove(self, connection: UpstreamConnection) -> None:
        """Remove a closed connection."""
        self._room.set()
        self._all.discard(connection)
        self._of_tunnels.discard(connection)
        places, connection.places = connection.places, None
        if places is not None:
            places.free(connection.account, critical=connection.critical)
        elif connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """End overdue exchanges, close connections that are idle for too long, resolve the name."""
        self.reachability.sweep()
        for connection in [*self._all, *self._of_tunnels]:
            if connection.deadline and now >= connection.deadline:
                connection.time_out()
        while self._idle and now - self._idle[0].idle_since > self.bounds.upstream_idle:
            self._idle.popleft().retire()
        if self.places.waiting:
            self._preempt_for_waiting()
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
        for connection in [*self._all, *self._of_tunnels]:
            connection.retire()
