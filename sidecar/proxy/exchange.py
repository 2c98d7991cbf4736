"""One admitted request, through to the upstream and back: forward, then settle exactly once.

Bytes are spliced in callbacks from one connection to the other; a side that cannot take
more pauses the reading of the other, so an exchange holds at most one read and one write
buffer each way, whatever the size of the bodies.
"""

import asyncio
import time
from collections.abc import Sequence

from sidecar.core.ratelimit_fields import legacy_fields, ratelimit_field
from sidecar.core.refusals import http_problem
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.gate import Admission
from sidecar.proxy.client import ResponseHead, UpstreamConnection, UpstreamFailed, UpstreamPool
from sidecar.proxy.headers import nominated, traceparent
from sidecar.proxy.replies import CONTINUE
from sidecar.proxy.request import Request
from sidecar.proxy.server import ClientConnection

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})  # RFC 9110, 9.2.2
_FAILURES = {
    OutcomeReason.UPSTREAM_REFUSED: (502, "The API cannot be reached"),
    OutcomeReason.UPSTREAM_BROKEN: (502, "The API gave no usable answer"),
    OutcomeReason.UPSTREAM_TIMEOUT: (504, "The API took too long"),
}


class Exchange:
    """Forwards one request and relays its response. `run` says how it went."""

    def __init__(
        self,
        request: Request,
        admission: Admission,
        connection: ClientConnection,
        pool: UpstreamPool,
        *,
        legacy_headers: bool = False,
    ) -> None:
        self.method = request.method
        self._request = request
        self._admission = admission
        self._client = connection
        self._pool = pool
        self._legacy_headers = legacy_headers
        self._upstream: UpstreamConnection | None = None
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._out: list[bytes] = []
        self._chunked_out = False
        self._head: ResponseHead | None = None
        self._failure: tuple[OutcomeReason, str] | None = None
        self._ended = False
        self._bytes_out = 0
        self.keep = not request.close
        self.status = 0

    async def run(self) -> Outcome:
        """Forward, relay, and tell the outcome. Whatever happens, both sides are left clean."""
        started = time.perf_counter()
        reason = OutcomeReason.CANCELLED
        try:
            await self._forward()
            reason = self._failure[0] if self._failure else OutcomeReason.OK
            if self._failure and self._head is None:
                self._answer_failure(*self._failure)
        except asyncio.CancelledError:
            if self._client.lost:
                reason = OutcomeReason.CLIENT_GONE
            self.keep = False
            raise
        finally:
            self._leave()
            self.outcome = Outcome(
                status=self.status or 499,
                reason=reason,
                latency_ms=int((time.perf_counter() - started) * 1000),
                bytes_in=self._request.body_bytes,
                bytes_out=self._bytes_out,
            )
        return self.outcome

    async def _forward(self) -> None:
        request = self._request
        if request.expects_continue and not request.complete and not request.body_bytes:
            self._client.write(CONTINUE)
        self._client.on_pause, self._client.on_resume = self._pause, self._resume
        upstream = self._pool.take_idle()
        try:
            if upstream is None:
                upstream = await self._pool.acquire()
            await self._send(upstream)
            if self._may_retry(upstream):
                self._failure = None
                self._done = self._loop.create_future()
                await self._send(await self._pool.connect())
        except UpstreamFailed as failed:
            self._failure = (failed.reason, failed.detail)

    def _may_retry(self, upstream: UpstreamConnection) -> bool:
        """A pooled connection that died without a byte had been closed before we wrote on it."""
        return (
            self._failure is not None
            and self._failure[0] is OutcomeReason.UPSTREAM_BROKEN
            and upstream.reused
            and not upstream.answered
            and not self._request.has_body
            and self.method in _IDEMPOTENT
        )

    async def _send(self, upstream: UpstreamConnection) -> None:
        request = self._request
        self._upstream = upstream
        parts = self._request_head()
        for held in request.take_held():
            parts.extend(self._framed(held))
        if request.complete and request.chunked:
            parts.append(b"0\r\n\r\n")
        deadline = self._pool.now() + self._pool.bounds.response_timeout
        upstream.start(self, b"".join(parts), deadline)
        if not request.complete:
            request.attach(self._body, self._body_broken)
            self._client.deadline = self._pool.now() + self._pool.bounds.body_timeout
            self._client.resume_reading()
        await self._done

    # client → upstream

    def _request_head(self) -> list[bytes]:
        request = self._request
        key = self._admission.key
        parts = [b"%b %b HTTP/1.1\r\n" % (self.method.encode(), request.target)]
        host = request.host[0] if request.host else b""
        parts.append(b"Host: %b\r\n" % host)
        fields = request.fields
        if request.connection:
            dropped = nominated(request.connection)
            if dropped:
                fields = [field for field in fields if field[0].lower() not in dropped]
        for name, value in fields:
            parts += (name, b": ", value, b"\r\n")
        if request.chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        elif request.content_length is not None:
            parts.append(b"Content-Length: %d\r\n" % request.content_length)
        request_id = self._admission.request_id
        parts.append(
            b"X-Account-Id: %b\r\nX-Plan: %b\r\nX-Key-Id: %b\r\nX-Request-Id: %b\r\n"
            b"traceparent: %b\r\nX-Forwarded-For: %b\r\nX-Forwarded-Host: %b\r\n"
            b"X-Forwarded-Proto: http\r\nVia: %b sidecar\r\n\r\n"
            % (
                key.account.id.encode(),
                self._admission.entitlement.plan.id.encode(),
                key.id.encode(),
                request_id.encode(),
                traceparent(request.traceparents, request_id),
                request.address.encode(),
                host,
                b"1.0" if request.http10 else b"1.1",
            )
        )
        return parts

    def _framed(self, data: bytes) -> Sequence[bytes]:
        if self._request.chunked:
            return (b"%x\r\n" % len(data), data, b"\r\n")
        return (data,)

    def _body(self, data: bytes, last: bool) -> None:
        upstream = self._upstream
        if upstream is None or self._ended:
            return
        if last:
            self._client.deadline = 0.0
            if self._request.chunked:
                upstream.write(b"0\r\n\r\n")
        else:
            upstream.write(b"".join(self._framed(data)))
        upstream.deadline = self._pool.now() + self._pool.bounds.response_timeout

    def _body_broken(self) -> None:
        """The client's body turned out malformed or stalled: the upstream must not see an end."""
        self.keep = False
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.taker = None
            upstream.retire()
        self._failure = (OutcomeReason.CLIENT_GONE, "The request body was not completed.")
        self._finish()

    def upstream_writable(self, writable: bool) -> None:
        """Backpressure from the upstream: stop or go on reading the client's body."""
        if writable:
            self._client.resume_reading()
        else:
            self._client.pause_reading()

    # upstream → client

    def response_head(self, head: ResponseHead) -> None:
        """Queue the head for the client: the upstream's fields, our framing, our fields."""
        self._head = head
        self.status = head.status
        request = self._request
        bodyless = self.method == "HEAD" or head.status in (204, 304)
        out = self._out
        out.append(b"HTTP/1.1 %d %b\r\n" % (head.status, head.phrase))
        for name, value in head.fields:
            out += (name, b": ", value, b"\r\n")
        if head.length is not None and head.status != 204:
            out.append(b"Content-Length: %d\r\n" % head.length)
        elif not bodyless:
            if request.http10:
                self.keep = False
            else:
                self._chunked_out = True
                out.append(b"Transfer-Encoding: chunked\r\n")
        if not request.complete:
            self.keep = False  # an early answer: what is left of the body is not worth reading
        out.append(self._own_fields())

    def _own_fields(self) -> bytes:
        admission = self._admission
        parts = [b"X-Request-Id: %b\r\n" % admission.request_id.encode()]
        tightest = admission.decision.tightest
        if tightest is not None:
            now_us = admission.decision.now_us
            parts.append(
                b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n"
                % (admission.entitlement.policy_field, ratelimit_field(tightest, now_us))
            )
            if self._legacy_headers:
                parts.extend(b"%b: %b\r\n" % field for field in legacy_fields(tightest, now_us))
        if not self.keep:
            parts.append(b"Connection: close\r\n")
        elif self._request.http10:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def response_body(self, data: bytes) -> None:
        """Queue body bytes, in our own framing."""
        self._bytes_out += len(data)
        if self._chunked_out:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)

    def response_flush(self) -> None:
        """Write what one read of the upstream brought, in one piece."""
        if self._out:
            self._client.write(b"".join(self._out))
            self._out.clear()

    def response_end(self) -> None:
        """The response is whole."""
        if self._chunked_out:
            self._client.write(b"0\r\n\r\n")
        self._finish()

    def response_failed(self, reason: OutcomeReason, detail: str) -> None:
        """No (further) response. A started answer is cut off, so that nobody takes it for whole."""
        self._upstream = None
        self._failure = (reason, detail)
        if self._head is not None:
            self.keep = False
            self._client.abort()
        self._finish()

    def _answer_failure(self, reason: OutcomeReason, detail: str) -> None:
        request_id = self._admission.request_id
        if not self._request.complete:
            self.keep = False
        fault = self._client.fault
        if fault is not None:
            refusal = http_problem(fault.status, fault.title, fault.detail, request_id)
            self.keep = False
            self._client.fault_answered()
        else:
            status, title = _FAILURES[reason]
            refusal = http_problem(status, title, detail, request_id)
        self.status = refusal.status
        self._client.reply(refusal, request_id, self._request, close=not self.keep)

    def _pause(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()
            self._upstream.deadline = 0.0
            self._client.deadline = self._pool.now() + self._pool.bounds.body_timeout

    def _resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()
            self._upstream.deadline = self._pool.now() + self._pool.bounds.response_timeout
            self._client.deadline = 0.0

    def _finish(self) -> None:
        self._ended = True
        if not self._done.done():
            self._done.set_result(None)

    def _leave(self) -> None:
        """Give the upstream connection back, or drop it when the exchange did not end on it."""
        self._ended = True
        self._client.on_pause = self._client.on_resume = _nothing
        self._client.deadline = 0.0
        self._request.discard()
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if self._failure is None and upstream.taker is None and self._request.complete:
            self._pool.release(upstream)
        else:
            upstream.taker = None
            upstream.retire()


def _nothing() -> None:
    pass
