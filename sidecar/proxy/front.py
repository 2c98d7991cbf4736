"""The data port: accepts connections, sweeps for overdue ones, and runs each request through."""

import asyncio
import time
from collections.abc import Callable

from sidecar.core.refusals import http_problem
from sidecar.errors import SettingsError
from sidecar.gate import Call, Gate, Refused
from sidecar.logs import logger
from sidecar.metrics import Metrics
from sidecar.proxy.client import UpstreamPool
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.limits import Bounds
from sidecar.proxy.request import Request
from sidecar.proxy.server import ClientConnection

log = logger("proxy")

SWEEP_SECONDS = 0.25


class DataPort:
    """Owns the listener, the connections and the pool; asks the gate about every request."""

    def __init__(
        self,
        gate: Gate,
        pool: UpstreamPool,
        bounds: Bounds,
        metrics: Metrics,
        *,
        new_id: Callable[[], str],
        reserved_prefix: bytes = b"/-/",
        legacy_headers: bool = False,
        access_log: bool = False,
    ) -> None:
        self.bounds = bounds
        self.draining = False
        self.new_id = new_id
        self._gate = gate
        self._pool = pool
        self._metrics = metrics
        self._reserved_prefix = reserved_prefix
        self._legacy_headers = legacy_headers
        self._access_log = access_log
        self._connections: set[ClientConnection] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def connections(self) -> int:
        """Client connections open now."""
        return len(self._connections)

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises SettingsError when the address cannot be had."""
        try:
            self._server = await self._loop.create_server(
                lambda: ClientConnection(self, self._loop), host, port, backlog=1024
            )
        except OSError as error:
            raise SettingsError(
                f"{host}:{port} cannot be listened on ({error.strerror or error}); "
                "choose another address with --listen HOST:PORT"
            ) from None
        self._sweep()

    @property
    def port(self) -> int:
        """The port listened on (useful after asking for port 0)."""
        assert self._server is not None  # noqa: S101
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, drain_seconds: float) -> None:
        """Take no more connections, finish what runs, drop the rest at the deadline."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        give_up = self._loop.time() + drain_seconds
        while self._connections and self._loop.time() < give_up:
            for connection in list(self._connections):
                connection.close_if_idle()
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._pool.close()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            if connection.deadline and now >= connection.deadline:
                connection.overdue()
        self._pool.sweep(now)
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    # what connections ask for

    def opened(self, connection: ClientConnection) -> bool:
        """A new client connection; False when there are too many."""
        if self.draining or len(self._connections) >= self.bounds.max_connections:
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: ClientConnection) -> None:
        """The connection is gone."""
        self._connections.discard(connection)

    async def handle(self, request: Request, connection: ClientConnection) -> bool:
        """The life of a request. Returns whether the connection can take another."""
        started = time.perf_counter()
        if request.target.startswith(self._reserved_prefix):
            return self._answer_reserved(request, connection)
        admitted = await self._gate.admit(
            Call(
                request.method,
                request.target,
                request.api_keys,
                request.authorizations,
                request.address,
            )
        )
        if isinstance(admitted, Refused):
            close = request.close or not request.complete
            request.discard()
            connection.reply(admitted.refusal, admitted.request_id, request, close=close)
            self._log(request, admitted.request_id, admitted.refusal.status, started)
            return not close
        exchange = Exchange(
            request, admitted, connection, self._pool, legacy_headers=self._legacy_headers
        )
        asked = time.perf_counter()
        self._metrics.added.observe(asked - started)
        try:
            await exchange.run()
        finally:
            self._gate.settle(admitted, exchange.outcome)
            self._metrics.upstream.observe(time.perf_counter() - asked)
            self._log(request, admitted.request_id, exchange.outcome.status, started)
        return exchange.keep

    def _answer_reserved(self, request: Request, connection: ClientConnection) -> bool:
        """The reserved prefix never reaches the API; nothing is served under it yet."""
        close = request.close or not request.complete
        request.discard()
        request_id = self.new_id()
        prefix = self._reserved_prefix.decode()
        refusal = http_problem(
            404,
            "Nothing here",
            f"Paths under {prefix} are reserved and none is served.",
            request_id,
        )
        connection.reply(refusal, request_id, request, close=close)
        return not close

    def _log(self, request: Request, request_id: str, status: int, started: float) -> None:
        if self._access_log:
            log.info(
                "access",
                request_id=request_id,
                method=request.method,
                target=request.target.split(b"?", 1)[0].decode("latin-1")[:256],
                status=status,
                ms=round((time.perf_counter() - started) * 1000, 1),
            )
