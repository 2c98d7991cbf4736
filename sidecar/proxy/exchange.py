"""One admitted request: forwarded to the upstream, with its response relayed to the client.

Callbacks pass bytes from one connection to the other. A side that cannot take more pauses the
reading of the other side. So an exchange holds at most one read and one write buffer per
direction, whatever the size of the bodies.
"""

import asyncio
from functools import partial
from time import perf_counter
from typing import Final

from sidecar.core.model import RequestClass
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.gate import Admission, Gate, OnRecorded
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.failures import failure_reply, may_retry
from sidecar.proxy.headers import Fields
from sidecar.proxy.heads import ProxyOptions, request_head, wanted_upgrade
from sidecar.proxy.late_costs import LateCosts
from sidecar.proxy.read_ahead import BodyBroken, read_small_body
from sidecar.proxy.relay import last_chunk
from sidecar.proxy.responses import EXPECT
from sidecar.proxy.tunnel import Tunnel
from sidecar.proxy.upstream.connection import UpstreamConnection
from sidecar.proxy.upstream.places import CRITICAL, KINDS
from sidecar.proxy.upstream.pool import UpstreamFailed, UpstreamPool

_OK: Final = OutcomeReason.OK
_CRITICAL: Final = RequestClass.CRITICAL
_CANCELLED: Final = OutcomeReason.CANCELLED
_EMPTY: Final[list[bytes]] = []  # no body yet; never changed


class Exchange(LateCosts):
    """Forwards one request and relays its response. Implements `Receiver` and `BodyReceiver`.

    `broke`: the exchange ended with an internal error, which `run` raises. `outcome` is set when
    `run` ends, also if it raises. With a `gate`, the exchange is settled and recorded before the
    last byte of the response is written; `label` is the outcome that the gate counted.
    """

    __slots__ = (
        "_closed", "_expectation", "_gate", "_small_body", "_started", "_to_upstream", "broke",
        "label", "outcome", "total_timeout",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        admission: Admission,
        connection: ClientConnection,
        pool: UpstreamPool,
        options: ProxyOptions,
        gate: Gate | None,
    ) -> None:
        super().__init__(request, admission, connection, options)
        self._pool = pool
        self._upstream = None
        self._failure = None
        self._read_status = 0
        self.tunnel = None
        self._gate = gate
        self.broke = False
        self.label = ""
        self._started = 0.0
        self._closed = False  # the outcome is known, and recorded
        self._small_body = 0  # bytes read before the request took a connection, until it is sent
        self.total_timeout = pool.bounds.total_timeout
        self._to_upstream: list[bytes] = _EMPTY
        self._expectation: asyncio.TimerHandle | None = None
        if request.upgrade:
            self.upgrade = wanted_upgrade(request, options)

    async def run(self, now: float) -> Outcome:
        """Forward the request and relay the response. Returns the outcome.

        `now`: of `time.perf_counter`.
        """
        self._started = self._admission.in_flight.sent_at = now
        reason = _CANCELLED
        timer = None
        cancelled = False
        if self.total_timeout:
            timer = self._client.loop.call_later(self.total_timeout, self._on_total_timeout)
        try:
            try:
                upstream = self._send_at_once()
                if upstream is None:
                    await self._forward()
                else:
                    await self._done
                    if self._failure is not None:
                        await self._after_failure(upstream)
                failure = self._failure
                reason = failure[0] if failure else _OK
                if failure and not self._head_sent:
                    await self._reply_failure(*failure)
            except asyncio.CancelledError:
                cancelled = True  # compiled, an except clause must not await
            if cancelled:
                self.keep = False
                if not self._closed and self._can_await_usage():
                    reason = OutcomeReason.CLIENT_GONE
                    await self._await_usage()
                else:
                    reason = self._cancelled_reason()
                raise asyncio.CancelledError
        except Exception:
            self.broke, self.keep = True, False
            if not self._request.begun:
                self.status = 500  # `Handler.handle_error` replies
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._leave()
            if not self._closed:
                self._close(reason)
        return self.outcome

    def _cancelled_reason(self) -> OutcomeReason:
        """How an exchange ended whose task was cancelled."""
        # The exchange may have ended before the connection closed, and closed it.
        if self._failure is not None:
            return self._failure[0]
        if self._ended and self._response_complete:
            return OutcomeReason.OK
        if self._client.lost and not self._client.owner.draining:
            return OutcomeReason.CLIENT_GONE
        return OutcomeReason.CANCELLED

    def _close(self, reason: OutcomeReason, on_recorded: OnRecorded | None = None) -> None:
        """Compute the outcome, settle and record it. Called once."""
        self._closed = True
        tunnel = self.tunnel
        outcome = Outcome(
            self.status or 499,
            reason,
            int((perf_counter() - self._started) * 1000),
            self._request.body_bytes + (tunnel.bytes_in if tunnel else 0),
            self._bytes_out + (tunnel.bytes_out if tunnel else 0),
            begun=self._head_sent,
        )
        if self._reader is not None or self._admission.entitlement.settles:
            outcome = self._with_reading(outcome)
        self.outcome = outcome
        trace = self._request.trace
        if trace is not None:
            failed = reason is not OutcomeReason.OK
            trace.span("forward", self._started, reason, self.status, failed=failed)
        if self._gate is not None:
            self.label = self._gate.settle(
                self._admission, outcome, internal_error=self.broke, on_recorded=on_recorded
            )
        elif on_recorded is not None:
            on_recorded(None)

    def _send_at_once(self) -> UpstreamConnection | None:
        """Send an ordinary request on an idle connection; None if it has to wait for anything.

        Most requests need no further coroutine.
        """
        request, admission = self._request, self._admission
        route = admission.entitlement.route
        if self.upgrade or request.broken or route.asks_usage:
            return None
        if request.content_length and not request.complete:
            return None
        self._client.flow = self
        critical = route.request_class is _CRITICAL
        upstream = self._pool.take_idle(admission.key.account.id, critical)
        if upstream is not None:
            self._send(upstream)
        return upstream

    async def _forward(self) -> None:
        """Send a request that has to wait for its body or for a connection."""
        request, pool = self._request, self._pool
        if request.broken:
            self.body_broken()
            return
        self._client.flow = self
        kind = KINDS[self._admission.entitlement.route.request_class]
        account = self._admission.key.account.id
        try:
            if self._admission.entitlement.route.asks_usage:
                await self._ask_for_usage()
            if request.content_length and not request.complete:
                self._small_body = await read_small_body(
                    request, self._client, pool.bodies, account, self._admission.in_flight
                )
            upstream = None
            if not self.upgrade:
                upstream = pool.take_idle(account, critical=kind == CRITICAL)
            if upstream is None:
                place = self._admission.in_flight
                place.sent_at = None  # the upstream has no request while this one is queued
                upstream = await pool.acquire(account, kind, tunnel=bool(self.upgrade))
                place.sent_at = perf_counter()
            self._send(upstream)
            await self._done
        except UpstreamFailed as failed:
            self._failure = (failed.reason, failed.detail)
            return
        except BodyBroken:
            self.body_broken()
            return
        if self._failure is not None:
            await self._after_failure(upstream)

    async def _after_failure(self, upstream: UpstreamConnection) -> None:
        """Send a request once more if that is safe, and note a response that is missing."""
        request, pool, failure = self._request, self._pool, self._failure
        if failure is not None and may_retry(failure[0], upstream, request):
            self._failure = None
            self._ended = False
            self._done = self._client.loop.create_future()
            kind = KINDS[self._admission.entitlement.route.request_class]
            try:
                upstream = await pool.acquire(self._admission.key.account.id, kind, fresh=True)
            except UpstreamFailed as failed:
                self._failure = (failed.reason, failed.detail)
                return
            self._send(upstream)
            await self._done
        failure = self._failure
        if failure is not None and failure[0] is not OutcomeReason.CLIENT_GONE:
            pool.reachability.response_missing(upstream.parse_error or failure[1])

    def _send(self, upstream: UpstreamConnection) -> None:
        request = self._request
        self._upstream = upstream
        parts = request_head(request, self._admission, self._options, self.upgrade)
        self._to_upstream = request.take_buffered()
        if self._to_upstream:
            parts += self._framed()
        if request.complete and request.chunked:
            parts.append(last_chunk(request.trailers))
        self._awaits_continue = (
            request.expects_continue and not request.complete and not request.body_bytes
        )
        if self._awaits_continue:
            parts.insert(1, EXPECT)
        now = self._pool.now()
        upstream.start(self, b"".join(parts), now + self._pool.bounds.response_timeout)
        if self._small_body:
            self._free_small_body()
        if not request.complete:
            self._admission.in_flight.sent_at = None  # the upstream has half a request
            request.attach(self)
            if self._awaits_continue:
                timeout = self._pool.bounds.expect_timeout
                self._expectation = self._client.loop.call_later(timeout, self.response_continue)
            else:
                self._client.await_body(request)
            self._client.resume_reading()

    def _free_small_body(self) -> None:
        self._pool.bodies.free(self._admission.key.account.id, self._small_body)
        self._small_body = 0

    # client → upstream

    def _framed(self) -> list[bytes]:
        """Take the received part of the body, framed for the upstream."""
        parts, self._to_upstream = self._to_upstream, []
        if self._request.chunked:
            size = sum(map(len, parts))
            return [b"%x\r\n" % size, *parts, b"\r\n"] if size else []
        return parts

    def body_piece(self, data: bytes) -> None:
        """Queue body bytes."""
        self._to_upstream.append(data)  # the list of this exchange: `_send` has replaced _EMPTY

    def body_flush(self) -> None:
        """Write the bytes of one read from the client, in one piece."""
        if self._to_upstream:
            self._write_body(self._framed())

    def body_end(self, trailers: Fields) -> None:
        """Write the end of the body."""
        self._client.deadline = 0.0
        self._admission.in_flight.sent_at = perf_counter()
        parts = self._framed()
        if self._request.chunked:
            parts.append(last_chunk(trailers))
        self._write_body(parts)

    def _write_body(self, parts: list[bytes]) -> None:
        upstream = self._upstream
        if upstream is None:
            return
        if self._ended:
            upstream.usable = False  # it would read the next request as the rest of this body
            return
        if parts:
            upstream.write(b"".join(parts))
        if not self._head_received:
            upstream.deadline = self._pool.now() + self._pool.bounds.response_timeout

    def body_broken(self) -> None:
        """Fail: the client's body is malformed or stalled. The upstream must not see its end."""
        self.keep = False
        self._to_client.clear()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.retire()
        if self._head_sent:
            self._client.abort()
        self._failure = (OutcomeReason.CLIENT_GONE, "The request body was not completed.")
        self._finish()

    def client_stall_s(self, now: float) -> float:
        """For how many seconds the upstream has waited for the client; 0 if it does not wait."""
        client = self._client
        if not client.deadline or (self._request.complete and not client.write_paused):
            return 0.0
        return now - (client.deadline - self._pool.bounds.body_timeout)

    def preempt(self) -> None:
        """End the exchange: other requests need the upstream connection."""
        if self._request.complete:
            self.body_broken()
        else:
            self._client.time_out_request()

    def upstream_writable(self, writable: bool) -> None:
        """Apply backpressure from the upstream: pause or resume reading the client's body."""
        if self._request.complete:
            return
        if writable:
            self._client.await_body(self._request)
            self._client.resume_reading()
        else:
            self._client.hold_body()

    # upstream → client

    def response_switched(self, rest: bytes) -> None:
        """Start the tunnel after a 101 response."""
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        self.response_flush()
        self._response_complete = True
        self.tunnel = Tunnel(self._client, upstream, self._pool.bounds, self.upgrade, self._finish)
        self.tunnel.start(self._client.take_rest(), rest)

    def response_failed(self, reason: OutcomeReason, detail: str) -> None:
        """Fail: the response is missing or incomplete. The client must not see its end."""
        self._upstream = None
        self._failure = (reason, detail)
        if self._head_sent:
            self.keep = False
            self._client.abort()
        self._to_client.clear()
        self._finish()

    def _on_total_timeout(self) -> None:
        if self._closed:
            return
        if self._upstream is not None:
            self._upstream.time_out()
        elif self.tunnel is not None:
            self.tunnel.going_away()

    async def _reply_failure(self, reason: OutcomeReason, detail: str) -> None:
        client = self._client
        if not self._request.complete or client.closing:
            self.keep = False
        fault = None
        if self._request.broken:  # else the fault is of a later request
            fault, client.fault = client.fault, None
            self.keep = self.keep and fault is None
        reply = failure_reply(reason, detail, fault, self._admission, self._options)
        self.status = reply.status
        if self._admission.late_overage:  # recorded before the last byte
            recorded = client.loop.create_future()
            self._close(reason, partial(resolve, recorded))
            await recorded
        else:
            self._close(reason)
        client.reply(reply, self._request, close=not self.keep)

    def client_writable(self, writable: bool) -> None:
        """Apply backpressure from the client: pause or resume reading the response."""
        upstream = self._upstream
        if upstream is None:
            return
        bounds = self._pool.bounds
        if not writable:
            upstream.pause_reading()
            upstream.deadline = 0.0
            self._client.deadline = self._pool.now() + bounds.body_timeout
            return
        upstream.resume_reading()
        upstream.deadline = self._pool.now() + bounds.stream_timeout
        self._client.deadline = 0.0
        if not self._request.complete:
            self._client.await_body(self._request)

    def _leave(self) -> None:
        """Release the upstream connection, or drop it if the exchange is incomplete."""
        self._ended = True
        client, request = self._client, self._request
        if self._expectation is not None:
            self._expectation.cancel()
        if self._small_body:
            self._free_small_body()
        client.flow = None
        client.deadline = 0.0
        request.discard()
        if self.tunnel is not None:
            self.tunnel.close()
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if self._failure is None and upstream.receiver is None and request.complete:
            self._pool.release(upstream)
        else:
            upstream.retire()


def resolve(recorded: "asyncio.Future[None]", error: Exception | None) -> None:
    """Report to a future that an event was recorded: see `Gate.settle`."""
    if recorded.done():
        return  # cancelled
    if error is None:
        recorded.set_result(None)
    else:
        recorded.set_exception(error)
