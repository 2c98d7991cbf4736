"""The life of a request, from the data port's view: ask the gate, then forward or answer."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from sidecar.core.decision import NO_DECISION
from sidecar.core.model import MICRO, Entitlement
from sidecar.core.readings import Reading
from sidecar.core.reasons import Reason
from sidecar.core.refusals.build import Refusal, http_problem, simple_refusal
from sidecar.errors import StoreUnavailable
from sidecar.gate import NOBODY, Admission, Deferred, Gate, Refused
from sidecar.logs import logger
from sidecar.metrics import INTERNAL_ERROR, Metrics
from sidecar.proxy.access_log import AccessLog
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.deferral import Deferral, Known
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.faults import Fault
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.heads import ProxyOptions, client_address
from sidecar.proxy.read_ahead import BodyBroken, reading_of, read_ahead
from sidecar.proxy.responses import OPTIONS, JsonAnswer
from sidecar.proxy.upstream.pool import UpstreamPool

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
        options: ProxyOptions,
        *,
        new_id: Callable[[], str],
        reserved_prefix: bytes = b"/-/",
        access_log: bool = False,
        deferral: Deferral | None = None,
    ) -> None:
        self._new_id = new_id
        self.options = options
        self._gate = gate
        self._pool = pool
        self._metrics = metrics
        self._max_unread = bounds.max_unread
        self._tunnel_check = bounds.tunnel_check
        self._reserved_prefix = reserved_prefix
        self._access = AccessLog(access_log)
        self._jobs = deferral

    async def handle(self, request: Request, connection: ClientConnection) -> bool:
        """From identify to record. Returns whether the connection can take another request."""
        started = time.perf_counter()
        if request.target.startswith(self._reserved_prefix):
            return await self._own(request, connection, started)
        local = self._local(request, connection, started)
        if local is not None:
            return local
        options = self.options
        if request.forwarded_for:
            request.address = client_address(request, options)
        read, jobs = partial(_read, request, connection), self._jobs
        try:
            if request.idempotency_keys and jobs is not None:
                known = await jobs.known(request, connection)
                if known is not None:
                    return await self._known(request, connection, known, started)
            admitted = await self._gate.admit(request, read, jobs.may if jobs else None)
            if isinstance(admitted, Deferred):
                return await self._deferred(request, connection, admitted, started)
            if isinstance(admitted, Refused):
                return self._refused(request, connection, admitted, started)
        except BodyBroken:
            return False  # the connection tells the client what was wrong
        request.admitted = admitted.request_id
        exchange = Exchange(request, admitted, connection, self._pool, options)
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
                log.info("tunnel_closed", account=admission.key.account.id)
                tunnel.close()
                return

    async def _known(
        self, request: Request, connection: ClientConnection, known: Known, started: float
    ) -> bool:
        """A call that is a job already, or would be if its Idempotency-Key were its own."""
        assert self._jobs is not None  # noqa: S101 - it has just been asked
        if isinstance(known, Refused):
            return self._refused(request, connection, known, started)
        request_id = self._new_id()
        refusal = simple_refusal(Reason.OTHER_CALL, request_id)
        deferred = Deferred(request_id, refusal, known.key, known.entitlement, NO_DECISION)
        said: JsonAnswer | Refusal = refusal
        if known.job_id is not None:
            try:
                said = await self._jobs.accepted(request, known.key, known.job_id)
            except StoreUnavailable:
                said = simple_refusal(Reason.STORE_UNAVAILABLE, request_id)
        return self._answer_deferred(request, connection, deferred, said, started)

    async def _deferred(
        self, request: Request, connection: ClientConnection, deferred: Deferred, started: float
    ) -> bool:
        assert self._jobs is not None  # noqa: S101 - it was for its sake
        said = await self._jobs.defer(request, connection, deferred)
        return self._answer_deferred(request, connection, deferred, said, started)

    def _answer_deferred(
        self,
        request: Request,
        connection: ClientConnection,
        deferred: Deferred,
        said: JsonAnswer | Refusal,
        started: float,
    ) -> bool:
        if isinstance(said, Refusal):
            refused = self._gate.refuse(deferred, said)
            return self._refused(request, connection, refused, started)
        self._gate.queued(deferred)
        keep = self._leave_body(request, connection)
        sent = connection.tell(said, deferred.request_id, request, close=not keep)
        if self._access.on:
            self._access.deferred(request, deferred, said.status, sent, started)
        return keep

    def _refused(
        self, request: Request, connection: ClientConnection, refused: Refused, started: float
    ) -> bool:
        keep = self._leave_body(request, connection)
        sent = connection.reply(refused.refusal, refused.request_id, request, close=not keep)
        if self._access.on:
            self._access.refused(request, refused, sent, started)
        return keep

    def _leave_body(self, request: Request, connection: ClientConnection) -> bool:
        """Whether the connection is worth keeping: what is unread_bytes of the body is small and sure to
        come. A client that waits for 100 may send it or not, so nobody could tell it apart."""
        keep = not (request.close or connection.closing)
        if not request.complete:
            left = (request.content_length or self._max_unread + 1) - request.body_bytes
            keep = keep and left <= self._max_unread and not request.expects_continue
        request.discard()
        return keep

    # what an account asks about itself

    async def _own(self, request: Request, connection: ClientConnection, started: float) -> bool:
        jobs = self._jobs
        job_id = jobs.job_named(request.target) if jobs is not None else None
        if jobs is None or job_id is None:
            prefix = self._reserved_prefix.decode()
            why = f"Paths under {prefix} are reserved, and this one is not served."
            return self._problem(request, connection, Fault(404, "Nothing here", why), started)
        request_id = self._new_id()
        said = await jobs.answer(request, job_id, request_id)
        if isinstance(said, Refused):
            return self._refused(request, connection, said, started)
        keep = self._leave_body(request, connection)
        if isinstance(said, Refusal):
            sent = connection.reply(said, request_id, request, close=not keep)
            reason = said.reason
        else:
            sent = connection.tell(said, request_id, request, close=not keep)
            reason = f"http-{said.status}"
        self._note(request, request_id, said.status, reason, sent, started)
        return keep

    # what is answered here, and asked of nobody

    def _local(self, request: Request, connection: ClientConnection, started: float) -> bool | None:
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
        own = self.options.via.lower()
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
        log.error("request_failed", request_id=request_id, exc_info=error)
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


async def _read(
    request: Request, connection: ClientConnection, entitlement: Entitlement
) -> Reading:
    """What the request tells of its costs."""
    if not entitlement.read_up_to:
        return reading_of(request, entitlement)
    body, whole = await read_ahead(request, connection, entitlement.read_up_to)
    return reading_of(request, entitlement, body, complete=whole)
