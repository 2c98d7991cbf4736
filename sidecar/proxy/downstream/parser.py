"""Bytes of one client connection → requests. llhttp reads; what it leaves to us is refused here.

Strict by choice (RFC 9112, sections 3, 5 and 6): a message that two honest parsers could
read in two ways is a Fault, and after a Fault nothing more of the connection is read.
"""

import re
from collections.abc import Callable
from typing import Final

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from sidecar.logs import logger
from sidecar.proxy.bounds import CHUNK, FRAMING, Bounds
from sidecar.proxy.downstream import faults
from sidecar.proxy.downstream.faults import Fault, malformed
from sidecar.proxy.downstream.llhttp_errors import fault_of
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import (
    MANAGED,
    NOT_FORWARDED,
    NOT_IN_TRAILERS,
    OVERRIDES,
    USUAL,
    is_spoofed,
    valid_host,
)

log = logger("proxy")

SLICE: Final = 4_096
LONGEST_NAME: Final = 256
TRACE_MEMBERS: Final = 32
ABSOLUTE: Final = re.compile(rb"https?://([^/?#@\\]+)((?:[/?].*)?)", re.IGNORECASE | re.DOTALL)

_LISTED: Final = {
    b"host": "host",
    b"x-api-key": "api_keys",
    b"authorization": "authorizations",
    b"connection": "connection",
    b"traceparent": "traceparents",
    b"prefer": "prefer",
    b"te": "te",
    b"via": "via",
    b"forwarded": "forwarded",
    b"x-forwarded-for": "forwarded_for",
    b"x-forwarded-host": "forwarded_host",
    b"x-forwarded-proto": "forwarded_proto",
    b"upgrade": "upgrade",
    b"idempotency-key": "idempotency_keys",
}
_SINGLE: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"expect", b"max-forwards", b"accept",
     b"content-type", b"content-encoding", b"tracestate"}
)  # fmt: skip
OF_INTEREST: Final = frozenset(_LISTED) | _SINGLE | MANAGED | OVERRIDES | NOT_FORWARDED


class RequestParser:
    """Parses what `feed` is given and calls `on_request` for every head that is complete."""

    __slots__ = (
        "_address", "_begun", "_bounds", "_deliver", "_framing", "_head_size", "_host", "_now",
        "_parser", "current", "pending",
    )  # fmt: skip
    __deletable__ = ("_parser",)  # mypyc asks for it

    def __init__(
        self,
        bounds: Bounds,
        address: str,
        now: Callable[[], float],
        on_request: Callable[[Request], None],
    ) -> None:
        self.current: Request | None = None  # being parsed
        self.pending = 0  # bytes of a head that is not complete yet
        self._bounds = bounds
        self._address = address
        self._now = now
        self._deliver = on_request
        self._parser = HttpRequestParser(self)
        self._head_size = 0
        self._host: tuple[bytes, ...] = ()  # of the last request, which is valid
        self._begun = 0  # messages that began in what is being parsed
        self._framing = 0  # bytes of the body that were not content, less what is allowed

    def close(self) -> None:
        """Part with the parser below, which knows us: nobody but the collector would end that
        circle, and with it all that a connection holds. Nothing is fed afterwards."""
        del self._parser

    def feed(self, data: bytes) -> bytes:
        """Parse. Returns what came after a request that asks for an upgrade (b"" otherwise):
        it may not be HTTP any more. Raises Fault."""
        current = self.current
        in_body = current is not None and current.received and not current.complete
        if len(data) <= SLICE or (in_body and current is not None and not current.chunked):
            rest = self._step(data)
        else:
            rest = self._slices(data)
        current = self.current
        if current is not None and not current.complete:
            current.flush()
        return rest

    def _slices(self, data: bytes) -> bytes:
        """Framing is bounded before its end is reached: so much of it is parsed at a time."""
        view = memoryview(data)
        for start in range(0, len(data), SLICE):
            rest = self._step(view[start : start + SLICE])
            if rest:
                return rest + bytes(view[start + SLICE :])
        return b""

    def _step(self, data: bytes | memoryview) -> bytes:
        current = self.current
        if current is None or current.complete or not current.received:
            self.pending += len(data)
        elif current.chunked:
            self._framing += len(data)
        rest = self._feed(data)
        if self.pending > self._bounds.max_header + self._bounds.max_target:
            raise faults.head_too_large(self._bounds)
        if self._framing > FRAMING:
            raise malformed("The chunked body has too many extensions or trailers.")
        return rest

    def _feed(self, data: bytes | memoryview) -> bytes:
        self._begun = 0
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            rest = bytes(data[upgrade.args[0] :])
            self._parser = HttpRequestParser(self)
            current = self._request()
            if not current.has_body:
                return rest
            self._reframe(current)
            return self._feed(rest)
        except HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, Fault):
                raise cause from None
            log.error("request_parse_failed", exc_info=cause)
            raise Fault(500, "Internal error", "The request could not be read.") from None
        except HttpParserError as flaw:
            in_head = self.current is not None and not self.current.received
            alone = bytes(data) if self._begun == 1 else b""  # else it began who knows where
            raise fault_of(flaw, in_head=in_head, begins_with=alone) from None
        return b""

    def _reframe(self, request: Request) -> None:
        """httptools takes a request for an upgrade to end with its head. One that has a body is
        not upgraded (RFC 9110, section 7.8, lets us ignore it), so its body is parsed like any
        other's: a parser that has seen no Upgrade is told the framing alone."""
        framing = b"Content-Length: %d" % (request.content_length or 0)
        if request.chunked:
            framing = b"Transfer-Encoding: chunked"
        deliver, self._deliver = self._deliver, _nobody
        try:
            self._parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
        finally:
            self._deliver, self.current = deliver, request

    @property
    def unfinished(self) -> Request | None:
        """The request that is being parsed, as far as it has come; None between two."""
        current = self.current
        if current is None or current.complete:
            return None
        if not current.method and current.target:
            current.method = self._parser.get_method().decode("ascii")
        return current

    # llhttp → us

    def on_message_begin(self) -> None:
        self.current = Request(self._address)
        self._begun += 1
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        request = self.current
        assert request is not None  # noqa: S101 - llhttp begins every message
        request.target += url
        if len(request.target) > self._bounds.max_target:
            raise faults.target_too_long(self._bounds)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self.current
        assert request is not None  # noqa: S101 - llhttp begins every message
        size = self._head_size = self._head_size + len(name) + len(value) + 4
        if size > self._bounds.max_header or len(name) > LONGEST_NAME:
            raise faults.head_too_large(self._bounds)
        lower = USUAL.get(name) or name.lower()
        if request.received:
            self._trailer(request, lower, name, value)
        elif lower not in OF_INTEREST:
            if b"_" in lower and is_spoofed(lower):
                return
            request.fields.append((lower, b"%b: %b\r\n" % (name, value.strip(b" \t"))))
        else:
            self._note(request, lower, name, value)

    def _note(self, request: Request, lower: bytes, name: bytes, value: bytes) -> None:
        value = value.strip(b" \t")
        if lower == b"tracestate" and value.count(b",") >= TRACE_MEMBERS:
            return  # W3C Trace Context, section 3.3.1.1: at most 32 members
        attribute = _LISTED.get(lower)
        if attribute is not None:
            setattr(request, attribute, (*getattr(request, attribute), value))
        else:
            _single(request, lower, value)
        if lower not in NOT_FORWARDED:
            request.fields.append((lower, b"%b: %b\r\n" % (name, value)))

    def _trailer(self, request: Request, lower: bytes, name: bytes, value: bytes) -> None:
        if lower in NOT_IN_TRAILERS or is_spoofed(lower):
            return
        if len(request.trailers) >= self._bounds.max_fields:
            raise faults.head_too_large(self._bounds)
        request.trailers = [*request.trailers, (lower, b"%b: %b\r\n" % (name, value))]

    def on_headers_complete(self) -> None:
        request, parser = self.current, self._parser
        assert request is not None  # noqa: S101 - llhttp begins every message
        request.method = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        if version != "1.1":
            if version == "0.9":  # that of a request line without one
                raise malformed("The request line does not end in HTTP/1.1.")
            if version != "1.0":
                raise faults.version_unknown()
            request.http10 = True
        request.close = not parser.should_keep_alive()
        request.received = self._now()
        self.pending = 0
        self._framing = 0
        self._head_size = 0  # trailers are counted anew
        if request.host != self._host:  # a client rarely calls another host by a connection
            _check_host(request)
            self._host = request.host
        _check(request, self._bounds)
        self._deliver(request)

    def on_chunk_header(self) -> None:
        self._framing -= CHUNK

    def on_body(self, data: bytes) -> None:
        request = self._request()
        limit = self._bounds.max_body
        if limit and request.body_bytes + len(data) > limit:
            raise faults.body_too_large(self._bounds)
        self._framing -= len(data)
        request.feed(data)

    def on_message_complete(self) -> None:
        request = self.current
        assert request is not None  # noqa: S101 - llhttp begins every message
        if not (request.upgrade and request.has_body and self._parser.should_upgrade()):
            request.end()

    def _request(self) -> Request:
        assert self.current is not None  # noqa: S101 - llhttp begins every message
        return self.current


def _nobody(_request: Request) -> None:
    pass


def _single(request: Request, lower: bytes, value: bytes) -> None:
    if lower == b"content-length":
        request.content_length = int(value)  # llhttp refused all but digits below 2^64
    elif lower == b"transfer-encoding":
        if request.chunked or value.lower() != b"chunked":
            raise faults.coding_unknown()
        request.chunked = True
    elif lower == b"expect":
        request.expects_continue = value.lower() == b"100-continue"
        if not request.expects_continue:
            raise Fault(417, "Expectation failed", "The only expectation met is 100-continue.")
    elif lower == b"max-forwards":
        if not value.isdigit() or len(value) > 9:
            raise malformed("Max-Forwards is not a number.")
        request.max_forwards = int(value)
    elif lower == b"accept":
        request.accept += b"," + value if request.accept else value
    elif lower == b"content-type":
        if request.content_type:
            raise malformed("There is more than one Content-Type.")
        request.content_type = value
    elif lower == b"content-encoding":
        request.content_encoding += b"," + value if request.content_encoding else value


def _check_host(request: Request) -> None:
    """RFC 9112, section 3.2."""
    host = request.host
    if len(host) > 1:
        raise malformed("Exactly one Host field is needed.")
    if host and not valid_host(host[0]):
        raise malformed("The Host field is not a host name and port.")


def _check(request: Request, bounds: Bounds) -> None:
    """What llhttp leaves to us: RFC 9112, sections 3.2 and 6.1, and what is not offered."""
    if not request.host and not request.http10:
        raise malformed("Exactly one Host field is needed.")
    if len(request.fields) > bounds.max_fields:
        raise faults.head_too_large(bounds)
    if request.chunked and (request.http10 or request.content_length is not None):
        raise malformed("A body is framed in one way, and HTTP/1.0 has no transfer codings.")
    if request.method == "CONNECT":
        raise Fault(405, "Method not allowed", "This is a gateway to one API, not a tunnel.")
    if request.method == "TRACE":
        raise Fault(405, "Method not allowed", "TRACE would send credentials back; it is not open.")
    if not request.target.startswith(b"/"):
        _origin_form(request)
    if bounds.max_body and (request.content_length or 0) > bounds.max_body:
        raise faults.body_too_large(bounds)


def _origin_form(request: Request) -> None:
    """RFC 9112, section 3.2.2: an absolute target's authority replaces Host."""
    if request.target == b"*":
        if request.method != "OPTIONS":
            raise malformed("The target * is for OPTIONS only.")
        return
    absolute = ABSOLUTE.fullmatch(request.target)
    if absolute is None or not valid_host(absolute[1]):
        raise malformed("The target is neither a path nor an absolute URL.")
    request.host = (absolute[1],)
    path = absolute[2]
    if path.startswith(b"/"):
        request.target = path
    else:
        request.target = b"*" if not path and request.method == "OPTIONS" else b"/" + path
