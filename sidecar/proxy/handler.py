"""The life of a request, from the data port's view: ask the gate, then forward or answer."""

import asyncio
import time
from collections.abc import Callable, Sequence

from sidecar.bodies import read_request
from sidecar.core.model import Entitlement
from sidecar.core.reading import Reading
from sidecar.core.refusals import http_problem
from sidecar.gate import Admission, Gate, Refused
from sidecar.logs import logger
from sidecar.metrics import Metrics
from sidecar.proxy.collecting import BodyBroken, read_ahead
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.heads import Manners, client_address
from sidecar.proxy.limits import Bounds
from sidecar.proxy.pool import UpstreamPool
from sidecar.proxy.replies import OPTIONS
from sidecar.proxy.request import Request
from sidecar.proxy.server import ClientConnection

log = logger("proxy")


class Handler:
    """Serves requests, one after the other on each connection."""

    def __init__(
        self,
        gate: Gate,
        pool: UpstreamPool,
        metrics: Metrics,
        bounds: Bounds,
        manners: Manners,
        *,
        new_id: Callable[[], str],
        reserved_prefix: bytes = b"/-/",
        access_log: bool = False,
    ) -> None:
        self.new_id = new_id
        self.manners = manners
        self._gate = gate
        self._pool = pool
        self._metrics = metrics
        self._max_unread = bounds.max_unread
        self._tunnel_check = bounds.tunnel_check
        self._reserved_prefix = reserved_prefix
        self._access_log = access_log

    async def handle(self, request: Request, connection: ClientConnection) -> bool:
        """From identify to record. Returns whether the connection can take another request."""
        started = time.perf_counter()
        local = self._local(request, connection)
        if local is not None:
            return local
        manners = self.manners
        if request.forwarded_for:
            request.address = client_address(request, manners)

        async def read(entitlement: Entitlement) -> Reading:
            body, whole = await read_ahead(request, connection, entitlement.read_up_to)
            return read_request(
                body,
                request.content_type,
                request.content_encoding,
                entitlement.estimates,
                complete=whole,
            )

        try:
            admitted = await self._gate.admit(request, read)
        except BodyBroken:
            return False  # the connection tells the client what was wrong
        if isinstance(admitted, Refused):
            keep = self._refused(request, connection, admitted)
            self._log(request, admitted.request_id, admitted.refusal.status, started)
            return keep
        exchange = Exchange(request, admitted, connection, self._pool, manners)
        asked = time.perf_counter()
        self._metrics.added.observe(asked - started)
        watch = None
        if exchange.upgrade and admitted.entitlement.plan.closes_tunnels:
            watch = connection.loop.create_task(self._watch(exchange, admitted))
        try:
            await exchange.run()
        finally:
            if watch is not None:
                watch.cancel()
            self._gate.settle(admitted, exchange.outcome)
            self._metrics.upstream.observe(time.perf_counter() - asked)
            self._log(request, admitted.request_id, exchange.outcome.status, started)
        return exchange.keep

    async def _watch(self, exchange: Exchange, admission: Admission) -> None:
        """Close a tunnel when the quota that it counts against is spent."""
        while True:
            await asyncio.sleep(self._tunnel_check)
            tunnel = exchange.tunnel
            if tunnel is not None and not await self._gate.has_quota_left(admission):
                log.info("tunnel closed: quota spent", account=admission.key.account.id)
                tunnel.close()
                return

    def _refused(self, request: Request, connection: ClientConnection, refused: Refused) -> bool:
        keep = self._leave_body(request, connection)
        connection.reply(refused.refusal, refused.request_id, request, close=not keep)
        return keep

    def _leave_body(self, request: Request, connection: ClientConnection) -> bool:
        """Whether the connection is worth keeping: what is unread of the body is small and sure to
        come. A client that waits for 100 may send it or not, so nobody could tell it apart."""
        keep = not (request.close or connection.closing)
        if not request.complete:
            left = (request.content_length or self._max_unread + 1) - request.body_bytes
            keep = keep and left <= self._max_unread and not request.expects_continue
        request.discard()
        return keep

    # what is answered here, and asked of nobody

    def _local(self, request: Request, connection: ClientConnection) -> bool | None:
        if request.target.startswith(self._reserved_prefix):
            prefix = self._reserved_prefix.decode()
            why = f"Paths under {prefix} are reserved and none is served."
            return self._problem(request, connection, 404, "Nothing here", why)
        if request.via and self._looped(request.via):
            why = "This request has passed through here before."
            return self._problem(request, connection, 508, "Loop detected", why)
        if request.max_forwards == 0 and request.method == "OPTIONS":
            keep = self._leave_body(request, connection)
            connection.write(OPTIONS + (b"\r\n" if keep else b"Connection: close\r\n\r\n"))
            return keep
        return None

    def _looped(self, via: Sequence[bytes]) -> bool:
        """Whether our own pseudonym is among those that the request came through."""
        own = self.manners.via.lower()
        return any(hop.split()[1:2] == [own] for value in via for hop in value.lower().split(b","))

    def _problem(
        self, request: Request, connection: ClientConnection, status: int, title: str, why: str
    ) -> bool:
        keep = self._leave_body(request, connection)
        request_id = self.new_id()
        refusal = http_problem(status, title, why, request_id)
        connection.reply(refusal, request_id, request, close=not keep)
        return keep

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
