"""The life of a request, from the data port's view: ask the gate, then forward or answer."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.bodies import read_request
from sidecar.core.late import told_by_fields
from sidecar.core.model import MICRO, Entitlement
from sidecar.core.reading import Reading
from sidecar.core.refusals import http_problem
from sidecar.gate import NOBODY, Admission, Gate, Refused
from sidecar.logs import logger
from sidecar.metrics import INTERNAL_ERROR, Metrics
from sidecar.proxy.access import AccessLog
from sidecar.proxy.collecting import BodyBroken, read_ahead
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.faults import Fault
from sidecar.proxy.heads import Manners, client_address
from sidecar.proxy.limits import Bounds
from sidecar.proxy.pool import UpstreamPool
from sidecar.proxy.replies import OPTIONS
from sidecar.proxy.request import Request
from sidecar.proxy.server import ClientConnection

log = logger("proxy")

INTERNAL: Final = 500
_FAILED: Final = ("Internal error", "Something went wrong here while this request was handled.")


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
        self._new_id = new_id
        self.manners = manners
        self._gate = gate
        self._pool = pool
        self._metrics = metrics
        self._max_unread = bounds.max_unread
        self._tunnel_check = bounds.tunnel_check
        self._reserved_prefix = reserved_prefix
        self._access = AccessLog(access_log)

    async def handle(self, request: Request, connection: ClientConnection) -> bool:
        """From identify to record. Returns whether the connection can take another request."""
        started = time.perf_counter()
        local = self._local(request, connection, started)
        if local is not None:
            return local
        manners = self.manners
        if request.forwarded_for:
            request.address = client_address(request, manners)

        async def read(entitlement: Entitlement) -> Reading:
            estimates = entitlement.estimates
            told = told_by_fields(((m, r.path) for m, r in estimates), request.named_fields())
            if not entitlement.read_up_to:
                return Reading.of(told)
            body, whole = await read_ahead(request, connection, entitlement.read_up_to)
            read = read_request(
                body,
                request.content_type,
                request.content_encoding,
                estimates,
                complete=whole,
            )
            return Reading.of(told | dict(read.values) | dict(read.unreadable))

        try:
            admitted = await self._gate.admit(request, read)
        except BodyBroken:
            return False  # the connection tells the client what was wrong
        if isinstance(admitted, Refused):
            return self._refused(request, connection, admitted, started)
        request.admitted = admitted.request_id
        exchange = Exchange(request, admitted, connection, self._pool, manners)
        asked = time.perf_counter()
        self._metrics.added.observe(asked - started - admitted.queued_us / MICRO)
        watch = None
        if exchange.upgrade and admitted.entitlement.plan.closes_tunnels:
            watch = connection.loop.create_task(self._watch(exchange, admitted))
        try:
            await exchange.run()
        finally:
            if watch is not None:
                watch.cancel()
            outcome = exchange.outcome
            label = self._gate.settle(admitted, outcome, broke=exchange.broke)
            self._metrics.upstream.observe(time.perf_counter() - asked)
            if self._access.on:
                self._access.forwarded(request, admitted, outcome, label, started)
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

    def _refused(
        self, request: Request, connection: ClientConnection, refused: Refused, started: float
    ) -> bool:
        keep = self._leave_body(request, connection)
        sent = connection.reply(refused.refusal, refused.request_id, request, close=not keep)
        if self._access.on:
            self._access.refused(request, refused, sent, started)
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

    def _local(self, request: Request, connection: ClientConnection, started: float) -> bool | None:
        if request.target.startswith(self._reserved_prefix):
            prefix = self._reserved_prefix.decode()
            why = f"Paths under {prefix} are reserved and none is served."
            return self._problem(request, connection, Fault(404, "Nothing here", why), started)
        if request.via and self._looped(request.via):
            why = "This request has passed through here before."
            return self._problem(request, connection, Fault(508, "Loop detected", why), started)
        if request.max_forwards == 0 and request.method == "OPTIONS":
            keep = self._leave_body(request, connection)
            connection.write(OPTIONS + (b"\r\n" if keep else b"Connection: close\r\n\r\n"))
            request.begun = request.answered = True
            self._note(request, self._new_id(), 204, "http-204", 0, started)
            return keep
        return None

    def _looped(self, via: Sequence[bytes]) -> bool:
        """Whether our own pseudonym is among those that the request came through."""
        own = self.manners.via.lower()
        return any(hop.split()[1:2] == [own] for value in via for hop in value.lower().split(b","))

    def _problem(
        self, request: Request, connection: ClientConnection, fault: Fault, started: float
    ) -> bool:
        keep = self._leave_body(request, connection)
        self._tell(request, connection, fault, self._new_id(), started, close=not keep)
        return keep

    def _tell(
        self,
        request: Request,
        connection: ClientConnection,
        fault: Fault,
        request_id: str,
        started: float,
        *,
        close: bool = True,
    ) -> None:
        refusal = http_problem(fault.status, fault.title, fault.detail, request_id)
        sent = connection.reply(refusal, request_id, request, close=close)
        reason = INTERNAL_ERROR if fault.status == INTERNAL else refusal.reason
        self._note(request, request_id, fault.status, reason, sent, started)

    def _note(
        self, request: Request, request_id: str, status: int, reason: str, sent: int, started: float
    ) -> None:
        self._metrics.count(NOBODY, NOBODY, NOBODY, reason)
        if self._access.on:
            self._access.local(request, request_id, status, reason, sent, started)

    def refuse(self, fault: Fault, request: Request | None, connection: ClientConnection) -> None:
        """Answer a message that is wrong; `request` is as much of it as was understood."""
        now = time.perf_counter()
        self._tell(request or Request(NOBODY), connection, fault, self._new_id(), now)

    def failed(
        self, error: Exception, request: Request | None, connection: ClientConnection
    ) -> None:
        """Something is wrong with ourselves: what, only the log is told."""
        request_id = (request.admitted if request else "") or self._new_id()
        log.error("a call failed", request_id=request_id, exc_info=error)
        if request is None or request.answered:
            return
        if request.begun:
            connection.abort()  # so that nobody takes what there is of the answer for all of it
        elif request.admitted:  # and settled: it is counted and in the access log
            refusal = http_problem(INTERNAL, *_FAILED, request_id)
            connection.reply(refusal, request_id, request, close=True)
        else:
            fault = Fault(INTERNAL, *_FAILED)
            self._tell(request, connection, fault, request_id, time.perf_counter())
