"""Relays a response to the client: the upstream's fields and the sidecar's fields and framing.

This is half of an exchange. It holds at most one read from the upstream, and writes it in one
piece. `Exchange` decides when and why an exchange ends.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Final

from sidecar.bodies import UsageFilter, reader_for
from sidecar.bodies.readers import BodyReader
from sidecar.core.readings import FieldCosts, read_fields
from sidecar.core.settlement import OutcomeReason
from sidecar.gate import Admission, OnRecorded
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import NOT_IN_TRAILERS, Fields
from sidecar.proxy.heads import ProxyOptions, own_fields, without_legacy
from sidecar.proxy.responses import CONTINUE, DateField
from sidecar.proxy.upstream.receiver import ResponseHead

_date: Final = DateField()
# Fields about the bytes of a body: they would be wrong for another one.
_OF_BODIES: Final = frozenset(
    {b"content-digest", b"repr-digest", b"digest", b"content-md5", b"etag", b"accept-ranges"}
)
_OK: Final = OutcomeReason.OK
_NO_READINGS: Final[FieldCosts] = {}  # replaced, never changed


class Relay:
    """The part of `Receiver` that handles heads, a body and its end."""

    # More attributes than the interpreter keeps outside of a dictionary: it reads slots fast.
    __slots__ = (
        "_admission", "_awaits_continue", "_bytes_out", "_chunked", "_client", "_client_left",
        "_done", "_ended", "_field_readings", "_filter", "_head_received", "_head_sent",
        "_options", "_reader", "_request", "_response_complete", "_to_client", "_usage_asked",
        "_usage_bytes", "keep", "method", "status", "upgrade",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        admission: Admission,
        connection: ClientConnection,
        options: ProxyOptions,
    ) -> None:
        self.method = request.method
        self.keep = not request.close
        self.upgrade = b""
        self.status = 0
        self._request = request
        self._admission = admission
        self._client = connection
        self._options = options
        self._done: asyncio.Future[None] = connection.loop.create_future()
        self._awaits_continue = False  # the client waits for 100 before it sends its body
        self._chunked = False
        self._head_received = False
        self._head_sent = False  # the client may have got some of it
        self._response_complete = False
        self._ended = False
        self._bytes_out = 0
        self._client_left = False  # the response is read for its cost alone
        self._usage_bytes = 0  # that may still be read then
        self._usage_asked = False  # by the sidecar: the client must not see it
        self._reader: BodyReader | None = None
        self._filter: UsageFilter | None = None
        self._field_readings: FieldCosts = _NO_READINGS
        self._to_client: list[bytes] = []  # not written yet

    def response_continue(self) -> None:
        """Ask for the body: the API does, or has not answered in time (RFC 9110, 10.1.1)."""
        if self._awaits_continue and not self._head_received and not self._ended:
            self._awaits_continue = False
            if not self._request.body_bytes:  # else the client has not waited
                self._client.write(CONTINUE)
            if not self._request.complete:
                self._client.await_body(self._request)

    def response_interim(self, head: ResponseHead) -> None:
        """Relay an interim response such as 103 (RFC 9110, section 15.2), except to HTTP/1.0."""
        if not self._request.http10:
            lines = b"".join([line for _, line in head.fields])
            self._client.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.phrase, lines))

    def response_head(self, head: ResponseHead) -> None:
        """Queue the head for the client."""
        self._head_received = True
        self.status = status = head.status
        self._admission.in_flight.on_response(status, perf_counter())
        request, client = self._request, self._client
        if self._usage_asked:
            self._hide_usage(head)
        out = self._to_client
        out.append(b"HTTP/1.1 %d %b\r\n" % (status, head.phrase))
        fields = head.fields
        if self._options.legacy_headers:
            fields = without_legacy(fields, self._admission)
        for _, line in fields:  # a comprehension would be a call more
            out.append(line)
        if status == 101:
            self.keep = False
            out.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % self.upgrade)
            out.append(own_fields(request, self._admission, self._options, keep=True))
            return
        if head.length is not None and status != 204:
            out.append(b"Content-Length: %d\r\n" % head.length)
        elif self.method != "HEAD" and status != 204 and status != 304:
            if request.http10:
                self.keep = False
            else:
                self._chunked = True
                out.append(b"Transfer-Encoding: chunked\r\n")
                if head.announced:
                    out.append(announcement(head.announced))
        if not head.dated:  # RFC 9110, section 6.6.1
            out.append(b"Date: %b\r\n" % _date())
        if not request.complete or client.expired or client.owner.draining:
            self.keep = False  # after an early response, the rest of the body is not read
        if request.complete:
            client.deadline = 0.0
        out.append(own_fields(request, self._admission, self._options, self.keep))
        if self._admission.entitlement.settles:
            self._read_costs(head)

    def _read_costs(self, head: ResponseHead) -> None:
        entitlement = self._admission.entitlement
        if entitlement.settles:
            self._field_readings = read_fields(entitlement.settles, head.fields)
        if entitlement.reads_response:
            ratio = self._client.bounds.decompression_ratio
            self._reader = reader_for(
                head.content_type, head.content_encoding, entitlement.reads, ratio
            )

    def _hide_usage(self, head: ResponseHead) -> None:
        """Prepare to remove the usage from an event stream, whose length is then not known."""
        if is_event_stream(head.content_type) and not head.content_encoding:
            self._filter = UsageFilter()
            head.length = None
            head.fields = [field for field in head.fields if field[0] not in _OF_BODIES]

    def response_body(self, data: bytes) -> None:
        """Queue body bytes, framed for the client."""
        if self._reader is not None and self._reader.wanted:
            self._reader.feed(data)
        if self._filter is not None:
            data = self._filter.feed(data)
            if not data:
                return
        self._bytes_out += len(data)
        if self._chunked:
            self._to_client += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._to_client.append(data)

    def response_flush(self) -> None:
        """Write the bytes of one read from the upstream, in one piece."""
        if self._client_left:
            self._after_client_left()
        elif self._to_client:
            self._head_sent = self._request.begun = True
            self._client.write(b"".join(self._to_client))
            self._to_client.clear()

    def _after_client_left(self) -> None:
        """Drop the bytes of one read, and end when the cost is known or the bound is reached."""
        self._usage_bytes -= sum([len(part) for part in self._to_client])
        self._to_client.clear()
        reader = self._reader
        unreadable = self._head_received and (reader is None or not reader.wanted)
        known = reader is not None and reader.known
        if self._usage_bytes < 0 or unreadable or known:
            self._finish()

    def response_end(self, trailers: Fields) -> None:
        """Record the exchange, write the end of the response, and end the exchange.

        So the event is in the spool before the client can know that the response is whole.
        """
        self._response_complete = True
        if self._client_left:
            self._to_client.clear()
            self._finish()
            return
        self._head_sent = True
        if self._filter is not None:
            self._end_filter()
        try:
            if self._admission.late_overage:
                self._close(OutcomeReason.OK, partial(self._end_response, trailers))
                return
            self._close(_OK)
        except Exception as error:  # noqa: BLE001 - `Exchange.run` raises it
            self._fail(error)
            return
        self._end_response(trailers, None)

    def _fail(self, error: Exception) -> None:
        self._ended = True
        if not self._done.done():
            self._done.set_exception(error)

    def _end_response(self, trailers: Fields, error: Exception | None) -> None:
        """Write the end of the response: its event is recorded, unless there was an error."""
        if error is not None:
            self._fail(error)
            return
        if self._ended:
            return  # the client has left
        if self._chunked:
            self._to_client.append(last_chunk(trailers))
        self._request.begun = True
        if self._to_client:
            self._client.write(b"".join(self._to_client))
            self._to_client.clear()
        self._request.answered = self._ended = True
        if not self._done.done():
            self._done.set_result(None)

    def _end_filter(self) -> None:
        """Queue what is held of the last event."""
        reader, self._reader = self._reader, None  # has read it
        ended, self._filter = self._filter, None
        rest = b"" if ended is None else ended.finish()
        if rest:
            self.response_body(rest)
        self._reader = reader

    def _close(self, reason: OutcomeReason, on_recorded: OnRecorded | None = None) -> None:
        """Settle and record the exchange. `on_recorded`: as of `Gate.settle`."""
        raise NotImplementedError

    def _finish(self) -> None:
        self._ended = True
        if not self._done.done():
            self._done.set_result(None)


def is_event_stream(content_type: bytes) -> bool:
    """Whether this Content-Type is that of an event stream."""
    return content_type.partition(b";")[0].strip().lower() == b"text/event-stream"


def announcement(values: Sequence[bytes]) -> bytes:
    """The Trailer field (RFC 9110, section 6.6.2), without names that are not relayed."""
    named = [name.strip(b" \t") for value in values for name in value.split(b",")]
    names = [name for name in named if name and name.lower() not in NOT_IN_TRAILERS]
    return b"Trailer: %b\r\n" % b", ".join(names) if names else b""


def last_chunk(trailers: Fields) -> bytes:
    """The end of a chunked body (RFC 9112, section 7.1)."""
    return b"0\r\n%b\r\n" % b"".join([line for _, line in trailers])
