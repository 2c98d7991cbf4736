"""The part of an exchange that learns what the response costs.

If the client leaves before the cost is known, the response is read on, within bounds. On routes
that ask for it, the request gets the question for the usage of its stream.
"""

from typing import Final

from sidecar.bodies import is_multipart, with_usage_asked
from sidecar.core.readings import actual_costs
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.proxy.read_ahead import read_ahead
from sidecar.proxy.relay import Relay
from sidecar.proxy.tunnel import Tunnel
from sidecar.proxy.upstream.connection import UpstreamConnection
from sidecar.proxy.upstream.places import CRITICAL, KINDS
from sidecar.proxy.upstream.pool import UpstreamPool

_REPORTABLE: Final = (OutcomeReason.OK, OutcomeReason.CLIENT_GONE)
_REWRITTEN_UP_TO: Final = 262_144  # bytes of a body, unless its estimate is read up to more
# Fields of requests whose body must not change: they sign it, or have its digest.
_SIGNED: Final = frozenset(
    {
        b"content-digest", b"repr-digest", b"digest", b"content-md5", b"signature",
        b"x-amz-content-sha256",
    }
)  # fmt: skip


class LateCosts(Relay):
    """A relay that knows the pool of connections, and how the exchange goes on."""

    __slots__ = ("_failure", "_pool", "_read_status", "_upstream", "tunnel")

    # `Exchange` sets them: a further `__init__` costs each request a call.
    _pool: UpstreamPool
    _upstream: UpstreamConnection | None
    _failure: tuple[OutcomeReason, str] | None
    _read_status: int  # of a response that was read after the client left
    tunnel: Tunnel | None

    async def _ask_for_usage(self) -> None:
        """Ask for the usage of a stream, if the client does not. Raises BodyBroken.

        The body is read whole before, up to a bound. The API may not encode the response, so that
        the usage can be removed from it.
        """
        request, place = self._request, self._admission.in_flight
        if request.content_encodings or is_multipart(request.content_type):
            return  # many APIs read JSON whatever its type says, and curl says that it is a form
        limit = max(self._admission.entitlement.read_up_to, _REWRITTEN_UP_TO)
        if request.body_bytes > limit or any(name in _SIGNED for name, _ in request.fields):
            return
        sent_at, place.sent_at = place.sent_at, None  # the upstream has no request yet
        try:
            body, complete = await read_ahead(request, self._client, limit)
        finally:
            place.sent_at = sent_at
        changed = with_usage_asked(body) if complete and len(body) <= limit else None
        if changed is not None:
            self._usage_asked = True
            request.replace_body(changed)
            request.fields = [one for one in request.fields if one[0] != b"accept-encoding"]
            request.fields.append((b"accept-encoding", b"Accept-Encoding: identity\r\n"))

    def _with_reading(self, outcome: Outcome) -> Outcome:
        """Return the outcome with what the body of the response says."""
        reader, entitlement = self._reader, self._admission.entitlement
        body = None if reader is None else reader.finish(complete=self._response_complete)
        failed = reader is not None and reader.failed
        counted: dict[str, int] | None = None
        status = self._read_status or outcome.status
        if entitlement.fallbacks and status < 400 and not failed:
            events, size = 0, outcome.bytes_out
            if reader is not None:
                events, size = reader.events, max(size, reader.size)
            counted = {meter: rule.units(events, size) for meter, rule in entitlement.fallbacks}
        reading = actual_costs(
            entitlement.settles,
            body,
            self._field_readings,
            outcome.bytes_in,
            outcome.bytes_out,
            counted,
        )
        reason = outcome.reason
        if failed and outcome.status < 400 and reason in _REPORTABLE:
            reason = OutcomeReason.UPSTREAM_ERROR
        return outcome._replace(reading=reading, reason=reason)

    def _can_await_usage(self) -> bool:
        """Whether the response is read on after the client left, because its cost is not known."""
        client, reader = self._client, self._reader
        if not client.lost or client.owner.draining or not self._pool.bounds.usage_timeout:
            return False
        if self._ended or self._upstream is None or not self._request.complete:
            return False
        if not self._admission.entitlement.reads or self.tunnel is not None or self.status >= 400:
            return False
        return reader is None or (reader.wanted and not reader.known)

    async def _await_usage(self) -> None:
        """Read the response on until its cost is known, within the bounds. The client has left.

        Without a place for that, it is not read on.
        """
        pool, account = self._pool, self._admission.key.account.id
        critical = KINDS[self._admission.entitlement.route.request_class] == CRITICAL
        if not pool.usage_reads.take(account, critical=critical):
            pool.usage_refused += 1
            return
        client, bounds = self._client, pool.bounds
        sent = (self.status, self._head_sent, self._bytes_out)
        self._client_left, self._usage_bytes = True, bounds.usage_bytes
        done = self._done = client.loop.create_future()
        timer = client.loop.call_later(bounds.usage_timeout, self._finish)
        client.owner.unfinished.add(done)
        try:
            await done
        finally:
            pool.usage_reads.free(account, critical=critical)
            timer.cancel()
            client.owner.unfinished.discard(done)
            self._read_status = self.status
            self.status, self._head_sent, self._bytes_out = sent
            self._failure = None
