"""One admitted request, through to the upstream and back: forward, then settle exactly once.

Bytes are spliced in callbacks from one connection to the other; a side that cannot take
more pauses the reading of the other, so an exchange holds at most one read and one write
buffer each way, whatever the size of the bodies.
"""

import asyncio
import time

from sidecar.bodies import reader_for
from sidecar.bodies.readers import Reader
from sidecar.core.model import CallClass
from sidecar.core.refusals import http_problem
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.gate import Admission
from sidecar.proxy.client import ResponseHead, UpstreamConnection
from sidecar.proxy.headers import Fields, tokens
from sidecar.proxy.heads import Manners, own_fields, request_head, wanted_upgrade
from sidecar.proxy.pool import UpstreamFailed, UpstreamPool
from sidecar.proxy.replies import CONTINUE
from sidecar.proxy.request import Request
from sidecar.proxy.server import ClientConnection
from sidecar.proxy.tunnel import Tunnel

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})  # RFC 9110, 9.2.2
_FAILURES = {
    OutcomeReason.UPSTREAM_REFUSED: (502, "The API cannot be reached"),
    OutcomeReason.UPSTREAM_BROKEN: (502, "The API gave no usable answer"),
    OutcomeReason.UPSTREAM_TIMEOUT: (504, "The API took too long"),
    OutcomeReason.OVERLOADED: (503, "The API is at capacity"),
}


class Exchange:
    """Forwards one request and relays its response. `run` says how it went."""

    upgrade = b""
    status = 0
    tunnel: Tunnel | None = None
    _upstream: UpstreamConnection | None = None
    _in: list[bytes] = []  # noqa: RUF012 - body, from the client, not written yet; replaced
    _chunked_out = False
    _answered = False  # a head has come
    _written = False  # and some of it has gone to the client
    _whole = False
    _failure: tuple[OutcomeReason, str] | None = None
    _ended = False
    _bytes_out = 0
    _reader: Reader | None = None

    def __init__(
        self,
        request: Request,
        admission: Admission,
        connection: ClientConnection,
        pool: UpstreamPool,
        manners: Manners,
    ) -> None:
        self.method = request.method
        self.keep = not request.close
        if request.upgrade:
            self.upgrade = wanted_upgrade(request, manners)
        self._request = request
        self._admission = admission
        self._client = connection
        self._pool = pool
        self._manners = manners
        self._done: asyncio.Future[None] = connection.loop.create_future()
        self._out: list[bytes] = []  # response, for the client, not written yet

    async def run(self) -> Outcome:
        """Forward, relay, and tell the outcome. Whatever happens, both sides are left clean."""
        started = time.perf_counter()
        reason = OutcomeReason.CANCELLED
        timer = None
        if self._pool.bounds.total_timeout:
            timer = self._client.loop.call_later(self._pool.bounds.total_timeout, self._overdue)
        try:
            await self._forward()
            failure = self._failure
            reason = failure[0] if failure else OutcomeReason.OK
            if failure and not self._written:
                self._answer_failure(*failure)
        except asyncio.CancelledError:
            # It may have been over before the connection was, and the connection for that reason.
            if self._failure is not None:
                reason = self._failure[0]
            elif self._ended and self._whole:
                reason = OutcomeReason.OK
            elif self._client.lost and not self._client.front.draining:
                reason = OutcomeReason.CLIENT_GONE
            self.keep = False
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._leave()
            reader = self._reader
            tunnel = self.tunnel
            self.outcome = Outcome(
                self.status or 499,
                reason,
                int((time.perf_counter() - started) * 1000),
                self._request.body_bytes + (tunnel.bytes_in if tunnel else 0),
                self._bytes_out + (tunnel.bytes_out if tunnel else 0),
                None if reader is None else reader.finish(complete=self._whole),
            )
        return self.outcome

    async def _forward(self) -> None:
        request, pool = self._request, self._pool
        if request.expects_continue and not request.complete and not request.body_bytes:
            self._client.write(CONTINUE)
        if request.broken:
            self.body_broken()
            return
        self._client.flow = self
        critical = self._admission.entitlement.route.call_class is CallClass.CRITICAL
        try:
            upstream = pool.take_idle(critical=critical)
            if upstream is None:
                upstream = await pool.acquire(critical=critical)
            self._send(upstream)
            await self._done
            if self._failure is not None and self._may_retry(upstream):
                self._failure = None
                self._ended = False
                self._done = self._client.loop.create_future()
                self._send(await pool.connect())
                await self._done
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

    def _send(self, upstream: UpstreamConnection) -> None:
        request = self._request
        self._upstream = upstream
        parts = request_head(request, self._admission, self._manners, self.upgrade)
        self._in = request.take_held()
        if self._in:
            parts += self._framed()
        if request.complete and request.chunked:
            parts.append(_last_chunk(request.trailers))
        now = self._pool.now()
        upstream.start(self, b"".join(parts), now + self._pool.bounds.response_timeout)
        if not request.complete:
            request.attach(self)
            self._client.await_body(request)
            self._client.resume_reading()

    # client → upstream

    def _framed(self) -> list[bytes]:
        """What has come of the body, in our own framing; taken."""
        parts, self._in = self._in, []
        if self._request.chunked:
            size = sum(map(len, parts))
            return [b"%x\r\n" % size, *parts, b"\r\n"] if size else []
        return parts

    def body_piece(self, data: bytes) -> None:
        """Queue a piece of the body."""
        self._in = [*self._in, data]

    def body_flush(self) -> None:
        """Write what one read of the client brought, in one piece."""
        if self._in:
            self._write_body(self._framed())

    def body_end(self, trailers: Fields) -> None:
        """The body is whole."""
        self._client.deadline = 0.0
        parts = self._framed()
        if self._request.chunked:
            parts.append(_last_chunk(trailers))
        self._write_body(parts)

    def _write_body(self, parts: list[bytes]) -> None:
        upstream = self._upstream
        if upstream is None or self._ended:
            return
        if parts:
            upstream.write(b"".join(parts))
        if not self._answered:
            upstream.deadline = self._pool.now() + self._pool.bounds.response_timeout

    def body_broken(self) -> None:
        """The client's body turned out malformed or stalled: the upstream must not see an end."""
        self.keep = False
        self._out.clear()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.retire()
        if self._written:
            self._client.abort()
        self._failure = (OutcomeReason.CLIENT_GONE, "The request body was not completed.")
        self._finish()

    def kept_waiting(self, now: float) -> float:
        """For how long the upstream has had to wait for the client; 0 when it has not."""
        client = self._client
        if not client.deadline or (self._request.complete and not client.write_paused):
            return 0.0
        return now - (client.deadline - self._pool.bounds.body_timeout)

    def give_way(self) -> None:
        """Other calls need the upstream connection that this client keeps waiting."""
        if self._request.complete:
            self.body_broken()
        else:
            self._client.too_slow()

    def upstream_writable(self, writable: bool) -> None:
        """Backpressure from the upstream: stop or go on reading the client's body."""
        if self._request.complete:
            return
        if writable:
            self._client.await_body(self._request)
            self._client.resume_reading()
        else:
            self._client.hold_body()

    # upstream → client

    def response_interim(self, head: ResponseHead) -> None:
        """103 and its like pass (RFC 9110, section 15.2); HTTP/1.0 knows none of them."""
        if not self._request.http10:
            lines = b"".join([line for _, line in head.fields])
            self._client.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.phrase, lines))

    def response_head(self, head: ResponseHead) -> None:
        """Queue the head for the client: the upstream's fields, our framing, our fields."""
        self._answered = True
        self.status = status = head.status
        request, client = self._request, self._client
        out = self._out
        out.append(b"HTTP/1.1 %d %b\r\n" % (status, head.phrase))
        out += [line for _, line in head.fields]
        if status == 101:
            self.keep = False
            out.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % self.upgrade)
            out.append(own_fields(request, self._admission, self._manners, keep=True))
            return
        if head.length is not None and status != 204:
            out.append(b"Content-Length: %d\r\n" % head.length)
        elif self.method != "HEAD" and status != 204 and status != 304:
            if request.http10:
                self.keep = False
            else:
                self._chunked_out = True
                out.append(b"Transfer-Encoding: chunked\r\n")
        if not request.complete or client.closing:
            self.keep = False  # of an early answer: the rest of the body is not worth reading
        if request.complete:
            client.deadline = 0.0
        out.append(own_fields(request, self._admission, self._manners, keep=self.keep))
        settles = self._admission.entitlement.settles
        if settles:
            self._reader = reader_for(head.content_type, head.content_encoding, settles)

    def response_body(self, data: bytes) -> None:
        """Queue body bytes, in our own framing."""
        self._bytes_out += len(data)
        if self._chunked_out:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._out.append(data)
        if self._reader is not None and self._reader.wanted:
            self._reader.feed(data)

    def response_flush(self) -> None:
        """Write what one read of the upstream brought, in one piece."""
        if self._out:
            self._written = True
            self._client.write(b"".join(self._out))
            self._out.clear()

    def response_end(self, trailers: Fields) -> None:
        """The response is whole."""
        self._whole = True
        if self._chunked_out:
            wanted = trailers and b"trailers" in tokens(self._request.te)
            self._out.append(_last_chunk(trailers if wanted else []))
        self.response_flush()
        self._finish()

    def response_switched(self, rest: bytes) -> None:
        """101: from here on it is no longer HTTP."""
        upstream, self._upstream = self._upstream, None
        assert upstream is not None  # noqa: S101 - it has just answered
        self.response_flush()
        self._whole = True
        self.tunnel = Tunnel(self._client, upstream, self._pool.bounds, self._finish)
        self.tunnel.start(self._client.early, rest)

    def response_failed(self, reason: OutcomeReason, detail: str) -> None:
        """No (further) response. A started answer is cut off, so that nobody takes it for whole."""
        self._upstream = None
        self._failure = (reason, detail)
        if self._written:
            self.keep = False
            self._client.abort()
        self._out.clear()
        self._finish()

    def _overdue(self) -> None:
        if self._upstream is not None:
            self._upstream.overdue()
        elif self.tunnel is not None:
            self.tunnel.close()

    def _answer_failure(self, reason: OutcomeReason, detail: str) -> None:
        request_id = self._admission.request_id
        client = self._client
        if not self._request.complete:
            self.keep = False
        fault, client.fault = client.fault, None
        if fault is not None:
            refusal = http_problem(fault.status, fault.title, fault.detail, request_id)
            self.keep = False
        else:
            status, title = _FAILURES[reason]
            refusal = http_problem(status, title, detail, request_id)
        self.status = refusal.status
        client.reply(refusal, request_id, self._request, close=not self.keep)

    def client_writable(self, writable: bool) -> None:
        """Backpressure from the client: stop or go on reading the response."""
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

    def _finish(self) -> None:
        self._ended = True
        if not self._done.done():
            self._done.set_result(None)

    def _leave(self) -> None:
        """Give the upstream connection back, or drop it when the exchange did not end on it."""
        self._ended = True
        client, request = self._client, self._request
        client.flow = None
        client.deadline = 0.0
        request.discard()
        if self.tunnel is not None:
            self.tunnel.close()
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if self._failure is None and upstream.taker is None and request.complete:
            self._pool.release(upstream)
        else:
            upstream.retire()


def _last_chunk(trailers: Fields) -> bytes:
    """The end of a chunked body (RFC 9112, section 7.1)."""
    return b"0\r\n%b\r\n" % b"".join([line for _, line in trailers])
