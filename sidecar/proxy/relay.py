"""The answer's way to the client: the upstream's fields, our framing, our own fields beside them.

Half of an exchange. It holds at most what one read of the upstream brought, and writes that in
one piece; who ends the exchange, and why, is not its business.
"""

import asyncio
import time
from typing import Final

from sidecar.bodies import reader_for
from sidecar.bodies.readers import BodyReader
from sidecar.core.readings import Told, told_by_fields
from sidecar.gate import Admission
from sidecar.proxy.downstream.connection import ClientConnection
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import Fields, tokens
from sidecar.proxy.heads import ProxyOptions, own_fields
from sidecar.proxy.upstream.receiver import ResponseHead

_NO_READINGS: Final[Told] = {}  # by header fields; replaced, never changed


class Relay:
    """Keeps those promises of `Receiver` that are about a head, a body and its end."""

    upgrade = b""
    status = 0
    _chunked = False
    _head_received = False  # a head has come
    _head_sent = False  # and some of it has gone to the client
    _response_complete = False
    _ended = False
    _bytes_out = 0

    def __init__(
        self,
        request: Request,
        admission: Admission,
        connection: ClientConnection,
        options: ProxyOptions,
    ) -> None:
        self.method = request.method
        self.keep = not request.close
        self._request = request
        self._admission = admission
        self._client = connection
        self._options = options
        self._done: asyncio.Future[None] = connection.loop.create_future()
        self._reader: BodyReader | None = None
        self._field_readings: Told = _NO_READINGS
        self._to_client: list[bytes] = []  # for the client, not written yet

    def response_interim(self, head: ResponseHead) -> None:
        """103 and its like pass (RFC 9110, section 15.2); HTTP/1.0 knows none of them."""
        if not self._request.http10:
            lines = b"".join([line for _, line in head.fields])
            self._client.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.phrase, lines))

    def response_head(self, head: ResponseHead) -> None:
        """Queue the head for the client: the upstream's fields, our framing, our fields."""
        self._head_received = True
        self.status = status = head.status
        self._admission.place.answered(status, time.perf_counter())
        request, client = self._request, self._client
        out = self._to_client
        out.append(b"HTTP/1.1 %d %b\r\n" % (status, head.phrase))
        out += [line for _, line in head.fields]
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
        if not request.complete or client.closing:
            self.keep = False  # of an early answer: the rest of the body is not worth reading
        if request.complete:
            client.deadline = 0.0
        out.append(own_fields(request, self._admission, self._options, keep=self.keep))
        self._read_costs(head)

    def _read_costs(self, head: ResponseHead) -> None:
        found = self._admission.entitlement
        if found.settles:
            self._field_readings = told_by_fields(found.settles, head.fields)
            self._reader = reader_for(head.content_type, head.content_encoding, found.reads)

    def response_body(self, data: bytes) -> None:
        """Queue body bytes, in our own framing."""
        self._bytes_out += len(data)
        if self._chunked:
            self._to_client += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._to_client.append(data)
        if self._reader is not None and self._reader.wanted:
            self._reader.feed(data)

    def response_flush(self) -> None:
        """Write what one read of the upstream brought, in one piece."""
        if self._to_client:
            self._head_sent = self._request.begun = True
            self._client.write(b"".join(self._to_client))
            self._to_client.clear()

    def response_end(self, trailers: Fields) -> None:
        """The response is whole."""
        self._response_complete = True
        if self._chunked:
            wanted = trailers and b"trailers" in tokens(self._request.te)
            self._to_client.append(last_chunk(trailers if wanted else []))
        self.response_flush()
        self._request.answered = True
        self._finish()

    def _finish(self) -> None:
        self._ended = True
        if not self._done.done():
            self._done.set_result(None)


def last_chunk(trailers: Fields) -> bytes:
    """The end of a chunked body (RFC 9112, section 7.1)."""
    return b"0\r\n%b\r\n" % b"".join([line for _, line in trailers])
