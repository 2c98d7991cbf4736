"""The life of a request at the data port: ask the gate, then forward the request or reply."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Final

from sidecar.core.decision import NO_DECISION
from sidecar.core.kinds import MICRO
from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading
from sidecar.core.reasons import Reason
from sidecar.core.refusals.build import Refusal, http_problem, simple_refusal
from sidecar.core.refusals.ratelimit_fields import legacy_fields
from sidecar.errors import StoreUnavailable
from sidecar.gate import UNKNOWN, Admission, Deferred, Gate, Refused
from sidecar.logs import logger
from sidecar.metrics import INTERNAL_ERROR, Metrics
from sidecar.proxy.access_log import log_request
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.deferral import Deferral, KeyedRequest
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.faults import ALLOW, Fault, OtherProtocol
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.forwarded import NO_ADDRESS, note_client
from sidecar.proxy.heads import ProxyOptions
from sidecar.proxy.read_ahead import BodyBroken, needs_body, read_ahead, reading_of
from sidecar.proxy.request_end import end_trace
from sidecar.proxy.responses import LocalReply, refusal_reply
from sidecar.proxy.upstream.pool import UpstreamPool

log = logger("proxy")

_INTERNAL: Final = Fault(
    500, "Internal error", "An internal error occurred while this request was handled."
)

_MAX_PEERS: Final = 256  # proxies whose unreadable addresses are logged, once for each
_ADDRESS_REMEDY: Final = (
    "let the proxy send the client's IP address in X-Forwarded-For or Forwarded; without it, "
    "anonymous clients share the account anonymous/unknown"
)


class Handler:
    """Serves the requests of all connections. A connection has one request served at a time."""

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
        self._access_log = access_log
        self._deferral = deferral
        self._other_protocols: set[str] = set()  # that have been logged
        self._unreadable_peers: set[str] = set()  # that have been logged

    async def handle(self, request: Request, connection: ClientConnection) -> bool:
        """Serve a request. Returns whether the connection can serve another."""
        started = perf_counter()
        if request.target.startswith(self._reserved_prefix):
            return await self._handle_reserved(request, connection, started)
        if request.via or request.max_forwards is not None:
            reply = self._last_hop_reply(request)
            if reply is not None:
                return self._reply_unidentified(request, connection, reply, started)
        options = self.options
        if request.forwarded_for or request.forwarded:
            self._note_client(request)
        read, deferral = partial(_read_costs, request, connection), self._deferral
        try:
            if request.idempotency_keys and deferral is not None:
                keyed = await deferral.check_key(request, connection)
                if keyed is not None:
                    return await self._reply_keyed(deferral, request, connection, keyed, started)
            admitted = await self._gate.admit(
                request, read, deferral.is_deferrable if deferral else None
            )
            if not isinstance(admitted, Admission):
                if isinstance(admitted, Deferred):
                    return await self._defer(request, connection, admitted, started)
                return self._reply(request, connection, self._refused_reply(admitted), started)
        except BodyBroken:
            return False  # the connection replies with its fault
        request.admitted_id = admitted.request_id
        exchange = Exchange(request, admitted, connection, self._pool, options, self._gate)
        asked = perf_counter()
        overhead = asked - started - admitted.queued_us / MICRO
        self._metrics.added.observe(overhead)
        watch = None
        if exchange.upgrade and admitted.entitlement.plan.closes_tunnels:
            watch = connection.loop.create_task(self._close_at_quota(exchange, admitted))
        try:
            await exchange.run(asked)
        finally:
            if watch is not None:
                watch.cancel()
            outcome = exchange.outcome
            answered = perf_counter() - asked
            self._metrics.upstream.observe(answered)
            if self._access_log:
                log_request(
                    request,
                    admitted.request_id,
                    outcome.status,
                    exchange.label,
                    started,
                    bytes_in=outcome.bytes_in,
                    bytes_out=outcome.bytes_out,
                    key=admitted.key,
                    entitlement=admitted.entitlement,
                )
            if request.trace is not None:
                self._metrics.added.attach(overhead, request.trace.trace_id)
                self._metrics.upstream.attach(answered, request.trace.trace_id)
                end_trace(
                    request.trace, request, admitted.request_id, outcome.status, exchange.label,
                    started, admitted.key, admitted.entitlement,
                )  # fmt: skip
        return exchange.keep

    def _note_client(self, request: Request) -> None:
        note_client(request, self.options.trusts)
        peer, logged = request.peer, self._unreadable_peers
        if request.address == NO_ADDRESS and peer not in logged and len(logged) < _MAX_PEERS:
            logged.add(peer)
            log.warning("client_address_unknown", peer=peer, remedy=_ADDRESS_REMEDY)

    async def _close_at_quota(self, exchange: Exchange, admission: Admission) -> None:
        """Close the tunnel as soon as its quota is used up."""
        while True:
            await asyncio.sleep(self._tunnel_check)
            tunnel = exchange.tunnel
            if tunnel is not None and not await self._gate.has_quota_left(admission):
                log.info("tunnel_closed", account=admission.key.account.id)
                tunnel.quota_used_up()
                return

    # deferred jobs

    async def _reply_keyed(
        self,
        deferral: Deferral,
        request: Request,
        connection: ClientConnection,
        keyed: KeyedRequest | Refused,
        started: float,
    ) -> bool:
        """Reply as the Idempotency-Key decides: 202 for the same request again, or a refusal."""
        if isinstance(keyed, Refused):
            return self._reply(request, connection, self._refused_reply(keyed), started)
        request_id = self._new_id()
        refusal = keyed.refusal(request_id)
        deferred = Deferred(request_id, refusal, keyed.key, keyed.entitlement, NO_DECISION)
        result: LocalReply | Refusal = refusal
        if keyed.job_id is not None:
            try:
                result = await deferral.accepted(request, deferred, keyed.job_id)
            except StoreUnavailable:
                result = simple_refusal(Reason.STORE_UNAVAILABLE, request_id)
        return self._reply_deferred(request, connection, deferred, result, started)

    async def _defer(
        self, request: Request, connection: ClientConnection, deferred: Deferred, started: float
    ) -> bool:
        deferral = self._deferral
        result: LocalReply | Refusal = deferred.refusal
        if deferral is not None:
            result = await deferral.defer(request, connection, deferred)
        return self._reply_deferred(request, connection, deferred, result, started)

    def _reply_deferred(
        self,
        request: Request,
        connection: ClientConnection,
        deferred: Deferred,
        result: LocalReply | Refusal,
        started: float,
    ) -> bool:
        if isinstance(result, Refusal):
            result = self._refused_reply(self._gate.refuse(deferred, result))
        else:
            self._gate.record_deferred(deferred)
        return self._reply(request, connection, result, started)

    async def _handle_reserved(
        self, request: Request, connection: ClientConnection, started: float
    ) -> bool:
        """Serve a request below the reserved prefix: an account's requests about its jobs."""
        deferral = self._deferral
        job_id = deferral.job_id_of(request.target) if deferral is not None else None
        request_id = self._new_id()
        if deferral is None or job_id is None:
            prefix = self._reserved_prefix.decode()
            detail = f"Paths under {prefix} are reserved, and this one is not served."
            reply = _fault_reply(request_id, Fault(404, "Nothing here", detail))
        else:
            result = await deferral.answer(request, job_id, request_id)
            if isinstance(result, Refused):
                return self._reply(request, connection, self._refused_reply(result), started)
            if isinstance(result, Refusal):
                result = refusal_reply(request_id, result)
            reply = result
        return self._reply_unidentified(request, connection, reply, started)

    # replies

    def _last_hop_reply(self, request: Request) -> LocalReply | None:
        """The reply to a request that must not be forwarded by any proxy; None for all others."""
        if request.via and self._is_loop(request.via):
            detail = "This request has passed through here before."
            return _fault_reply(self._new_id(), Fault(508, "Loop detected", detail))
        if request.max_forwards == 0 and request.method == "OPTIONS":
            return LocalReply(self._new_id(), 204, "http-204", None, ALLOW)  # RFC 9110, 7.6.2
        return None

    def _is_loop(self, via: Sequence[bytes]) -> bool:
        """Whether this sidecar's pseudonym is among the Via values."""
        own = self.options.via.lower()
        return any(hop.split()[1:2] == [own] for value in via for hop in value.lower().split(b","))

    def _refused_reply(self, refused: Refused) -> LocalReply:
        reply = refusal_reply(refused.request_id, refused.refusal, refused.key, refused.entitlement)
        decision = refused.decision
        if not self.options.legacy_headers or decision is None or decision.tightest is None:
            return reply
        fields = legacy_fields(decision.tightest, decision.now_us)
        return reply._replace(fields=reply.fields + fields)

    def _reply_unidentified(
        self, request: Request, connection: ClientConnection, reply: LocalReply, started: float
    ) -> bool:
        """Reply to a request that the gate has not counted."""
        self._metrics.count(UNKNOWN, UNKNOWN, UNKNOWN, reply.reason)
        return self._reply(request, connection, reply, started)

    def _reply(
        self, request: Request, connection: ClientConnection, reply: LocalReply, started: float
    ) -> bool:
        """Write and log a reply. Returns whether the connection can serve another request."""
        keep = self._leave_body(request, connection)
        bytes_out = connection.reply(reply, request, close=not keep)
        if self._access_log:
            log_request(
                request,
                reply.request_id,
                reply.status,
                reply.reason,
                started,
                bytes_in=request.body_bytes,
                bytes_out=bytes_out,
                key=reply.key,
                entitlement=reply.entitlement,
            )
        if request.trace is not None:
            end_trace(
                request.trace, request, reply.request_id, reply.status, reply.reason, started,
                reply.key, reply.entitlement,
            )  # fmt: skip
        return keep

    def _leave_body(self, request: Request, connection: ClientConnection) -> bool:
        """Discard the rest of the body. Returns whether the connection is worth keeping.

        It is if the rest is small and certain to come. After `Expect: 100-continue` a client may
        send its body or not, and the next bytes would be ambiguous.
        """
        keep = not (request.close or connection.closing)
        if not request.complete:
            left = (request.content_length or self._max_unread + 1) - request.body_bytes
            keep = keep and left <= self._max_unread and not request.expects_continue
        request.discard()
        return keep

    def answer_fault(
        self, fault: Fault, request: Request | None, connection: ClientConnection
    ) -> None:
        """Reply to an invalid message; `request` is what could be parsed of it."""
        if isinstance(fault, OtherProtocol) and fault.protocol not in self._other_protocols:
            self._other_protocols.add(fault.protocol)
            log.warning("other_protocol_received", protocol=fault.protocol, remedy=fault.remedy)
        request = request or Request(UNKNOWN)
        request.close = True
        reply = _fault_reply(self._new_id(), fault)
        self._reply_unidentified(request, connection, reply, perf_counter())

    def handle_error(
        self, error: Exception, request: Request | None, connection: ClientConnection
    ) -> None:
        """Log an internal error, and reply with 500 unless a response has begun."""
        request_id = (request.admitted_id if request else "") or self._new_id()
        log.error("request_failed", request_id=request_id, exc_info=error)
        if request is None or request.answered:
            return
        if request.begun:
            connection.abort()  # a client must not take a partial response for a whole one
            return
        request.close = True
        reply = _fault_reply(request_id, _INTERNAL)
        if request.admitted_id:  # it is settled, counted and logged
            connection.reply(reply, request, close=True)
        else:
            self._reply_unidentified(request, connection, reply, perf_counter())


def _fault_reply(request_id: str, fault: Fault) -> LocalReply:
    reply = refusal_reply(
        request_id, http_problem(fault.status, fault.title, fault.detail, request_id, fault.fields)
    )
    return reply._replace(reason=INTERNAL_ERROR) if fault.status == 500 else reply


async def _read_costs(
    request: Request, connection: ClientConnection, entitlement: Entitlement
) -> Reading:
    """What the request says of its costs. Raises BodyBroken."""
    if not needs_body(request, entitlement):
        return reading_of(request, entitlement, complete=not request.has_body)
    body, complete = await read_ahead(request, connection, entitlement.read_up_to)
    return reading_of(request, entitlement, body, complete=complete)
