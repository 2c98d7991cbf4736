"""Connections to the one upstream: kept warm, bounded in number, some of them for critical calls.

Load balancing stays with the platform. A name is resolved again every few seconds; connections
that lead to an address which the name does not have any more take no further request.
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
HURRY: Final = 4  # part of the patience that is left when most connections wait for slow clients


class UpstreamFailed(Exception):
    """The upstream gave no usable answer."""

    def __init__(self, reason: OutcomeReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


class UpstreamPool:
    """Idle connections last in, first out. A few are out of reach for calls that are not critical,
    so that a slow API under a flood still answers them."""

    def __init__(self, upstream: Upstream, bounds: Bounds) -> None:
        self.bounds = bounds
        self.preempted = 0  # exchanges with slow clients that were ended for others
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self.now: Callable[[], float] = self._loop.time
        self.reachability = Reachability(str(upstream), lambda: self.now())
        self._idle: deque[UpstreamConnection] = deque()
        self._all: set[UpstreamConnection] = set()
        self._connecting = 0
        self._queued = 0  # calls that wait for a connection, those included whose turn has come
        self._promised = 0  # places of calls whose turn has come, and that have not taken it yet
        self._waiting = (
            FairQueue(),
            FairQueue(),
            FairQueue(),
        )  # critical calls, others, those that go last
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
        """Connections that wait for work."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Calls that wait for a connection."""
        return sum(map(len, self._waiting))

    @property
    def _in_use(self) -> int:
        return len(self._all) + self._connecting + self._promised - len(self._idle)

    def take_idle(self, *, critical: bool) -> UpstreamConnection | None:
        """The warmest idle connection, if there is one for such a call."""
        if not critical and self._in_use >= self._shared:
            return None
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
        return None

    async def acquire(
        self, *, critical: bool, last: bool = False, account: str = ""
    ) -> UpstreamConnection:
        """A connection of one's own: idle, new, or the next that is given back. When there are not
        enough, critical calls come first, those that go `last` when nobody else waits, and
        accounts take turns.

        Raises UpstreamFailed when none can be had within the connect timeout.
        """
        most = self.bounds.upstream_connections if critical else self._shared
        turns = self._waiting[0 if critical else 2 if last else 1]
        since = self.now()
        while self._in_use >= most:
            if not self._preempt_slow_client():
                await self._wait_turn(turns, account, since)
        return self.take_idle(critical=critical) or await self.connect()

    async def _wait_turn(self, turns: FairQueue, account: str, since: float) -> None:
        """Returns when a place is free, which is the caller's until it waits for something else."""
        turn: Turn = self._loop.create_future()
        turns.join(account, since, turn)
        self._queued += 1
        taken = False
        try:
            async with asyncio.timeout_at(since + self.bounds.connect_timeout):
                await turn
            taken = True
        except TimeoutError:
            problem = "All connections to the API are busy."
            self.reachability.unanswered(problem)
            raise UpstreamFailed(OutcomeReason.OVERLOADED, problem) from None
        finally:
            turns.leave(account, turn)
            self._queued -= 1
            if turn.done() and not turn.cancelled():
                self._promised -= 1
                if not taken:
                    self._wake_next()

    def _preempt_slow_client(self) -> bool:
        """Whether a client made way that has kept its connection waiting for too long. Slow ones
        are borne with for as long as nobody needs the place, and less when most are slow."""
        now, patience = self.now(), self.bounds.stall_timeout
        slow = [
            (waited, connection)
            for connection in self._all
            if connection.receiver is not None
            and (waited := connection.receiver.client_stall_s(now)) > patience / HURRY
        ]
        if not slow:
            return False
        waited, slowest = max(slow, key=itemgetter(0))
        if slowest.receiver is None or (waited < patience and len(slow) * 2 <= self._in_use):
            return False
        self.preempted += 1
        slowest.receiver.preempt()
        self._all.discard(slowest)  # nobody is woken: the place is the caller's
        return True

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises UpstreamFailed."""
        self._connecting += 1
        try:
            async with asyncio.timeout(self.bounds.connect_timeout):
                connection = await self._open()
        except TimeoutError:
            self._wake_next()
            self.reachability.failed("no connection was accepted in time")
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_TIMEOUT, "The API did not accept a connection in time."
            ) from None
        except ssl.SSLError as flaw:
            self._wake_next()
            self.reachability.failed(f"tls: {flaw.reason or flaw}")
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_REFUSED, "No secure connection to the API can be made."
            ) from None
        except OSError as error:
            self._wake_next()
            self.reachability.failed(error.strerror or str(error))
            raise UpstreamFailed(
                OutcomeReason.UPSTREAM_REFUSED, "No connection to the API can be made."
            ) from None
        finally:
            self._connecting -= 1
        self.reachability.reached()
        self._all.add(connection)
        return connection

    async def _open(self) -> UpstreamConnection:
        to = self._upstream
        name = to.server_name or (to.host if to.tls is not None else None)
        if to.path is not None:
            _, connection = await self._loop.create_unix_connection(
                lambda: UpstreamConnection(self), to.path, ssl=to.tls, server_hostname=name
            )
            return connection
        _, connection = await self._loop.create_connection(
            lambda: UpstreamConnection(self), to.host, to.port, ssl=to.tls, server_hostname=name
        )
        if to.is_name and connection.transport is not None:
            peer = connection.transport.get_extra_info("peername")
            connection.address = peer[0] if peer else ""
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Give a connection back after a whole exchange."""
        if not connection.usable:
            connection.retire()
            return
        connection.resume_reading()
        connection.idle_since = self.now()
        self._idle.append(connection)
        if self._queued:
            self._wake_next()

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._wake_next()

    def _wake_next(self) -> None:
        shared = self._shared
        for turns, most in zip(
            self._waiting, (self.bounds.upstream_connections, shared, shared), strict=True
        ):
            while turns and self._in_use < most:
                turn = turns.take(self.now())
                if not turn.done():
                    self._promised += 1
                    turn.set_result(None)

    def sweep(self, now: float) -> None:
        """End exchanges that are overdue, close what has been idle for long, mind the name."""
        self.reachability.sweep()
        for connection in list(self._all):
            if connection.deadline and now >= connection.deadline:
                connection.overdue()
        while self._idle and now - self._idle[0].idle_since > self.bounds.upstream_idle:
            self._idle.popleft().retire()
        while self.waiting and self._preempt_slow_client():
            self._wake_next()
        if self._all and self._upstream.is_name and now >= self._resolve_at:
            self._resolve_at = now + RESOLVE_S
            if self._resolving is None or self._resolving.done():
                self._resolving = self._loop.create_task(self._resolve())

    async def _resolve(self) -> None:
        """Retire what leads to an address that the name has lost. A failure changes nothing."""
        to = self._upstream
        try:
            async with asyncio.timeout(RESOLVE_S):
                found = await self._loop.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            log.warning("upstream_name_unresolved", error=type(error).__name__)
            return
        addresses = frozenset(str(entry[4][0]) for entry in found)
        if self._addresses and addresses != self._addresses:
            log.info("upstream_addresses_changed", addresses=sorted(addresses))
        self._addresses = addresses
        for connection in list(self._all):
            if connection.address not in addresses:
                connection.usable = False
        for connection in [one for one in self._idle if not one.usable]:
            connection.retire()

    def close(self) -> None:
        """Drop every connection."""
        if self._resolving is not None:
            self._resolving.cancel()
        for connection in list(self._all):
            connection.retire()
