"""Parses the bytes of one client connection into requests, with llhttp and further checks.

Strict on purpose (RFC 9112, sections 3, 5 and 6): a message that two correct parsers could read in
two ways is a Fault, and after a Fault the parser reads nothing more of the connection.
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
MAX_NAME: Final = 256
MAX_TRACE_MEMBERS: Final = 32
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

_NO_REQUEST: Final = Request("")  # before the first request of a connection; never changed
_NO_REQUEST.complete = True


class RequestParser:
    """A parser that calls `on_request` for each complete head."""

    __slots__ = (
        "_address", "_begun", "_bounds", "_deliver", "_framing", "_head_size", "_host", "_now",
        "_parser", "current", "pending",
    )  # fmt: skip
    __deletable__ = ("_parser",)  # mypyc requires it

    def __init__(
        self,
        bounds: Bounds,
        address: str,
        now: Callable[[], float],
        on_request: Callable[[Request], None],
    ) -> None:
        self.current = _NO_REQUEST  # the request that is being parsed, or the last one
        self.pending = 0  # bytes of a head that is not complete yet
        self._bounds = bounds
        self._address = address
        self._now = now
        self._deliver = on_request
        self._parser = HttpRequestParser(self)
        self._head_size = 0
        self._host: tuple[bytes, ...] = ()  # of the last request, which is valid
        self._begun = 0  # messages that began in the current read
        self._framing = 0  # bytes of the body that are not content, less the allowance per chunk

    def close(self) -> None:
        """Drop llhttp's parser. It must not be fed afterwards.

        The two parsers refer to each other: without this, a closed connection would stay in memory
        until the cyclic garbage collector runs.
        """
        del self._parser

    def feed(self, data: bytes) -> bytes:
        """Parse. Returns the bytes after a request for an upgrade, which may not be HTTP, else b"".

        Raises Fault.
        """
        current = self.current
        in_body = current.received and not current.complete
        if len(data) <= SLICE or (in_body and not current.chunked):
            rest = self._step(data)
        else:
            rest = self._slices(data)
        current = self.current
        if not current.complete:
            current.flush()
        return rest

    def _slices(self, data: bytes) -> bytes:
        """Parse in slices, so that a bound on framing applies before the end of a large read."""
        view = memoryview(data)
        for start in range(0, len(data), SLICE):
            rest = self._step(view[start : start + SLICE])
            if rest:
                return rest + bytes(view[start + SLICE :])
        return b""

    def _step(self, data: bytes | memoryview) -> bytes:
        current = self.current
        if current.complete or not current.received:
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
            current = self.current
            if not current.has_body:
                return rest
            self._reframe(current)
            return self._feed(rest)
        except HttpParserCallbackError as failure:
            cause = failure.__context__
            if isinstance(cause, Fault):
                raise cause from None
            log.error("request_parse_failed", exc_info=cause)
            raise Fault(500, "Internal error", "The request could not be parsed.") from None
        except HttpParserError as error:
            in_head = not self.current.complete and not self.current.received
            begins_with = bytes(data) if self._begun == 1 else b""  # else its start is unknown
            raise fault_of(error, in_head=in_head, begins_with=begins_with) from None
        return b""

    def _reframe(self, request: Request) -> None:
        """Prepare a new parser for the body of a request for an upgrade.

        httptools ends such a request with its head. A request with a body is not upgraded (RFC
        9110, section 7.8, permits to ignore Upgrade), and its body is parsed like any other: the
        new parser gets a head with the same framing and without Upgrade.
        """
        framing = b"Content-Length: %d" % (request.content_length or 0)
        if request.chunked:
            framing = b"Transfer-Encoding: chunked"
        deliver, self._deliver = self._deliver, _ignore
        try:
            self._parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
        finally:
            self._deliver, self.current = deliver, request

    @property
    def unfinished(self) -> Request | None:
        """The request that is being parsed, as far as it is known; None between two requests."""
        current = self.current
        if current.complete:
            return None
        if not current.method and current.target:
            current.method = self._parser.get_method().decode("ascii")
        return current

    # callbacks of llhttp

    def on_message_begin(self) -> None:
        self.current = Request(self._address)
        self._begun += 1
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        request = self.current
        request.target += url
        if len(request.target) > self._bounds.max_target:
            raise faults.target_too_long(self._bounds)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self.current
        size = self._head_size = self._head_size + len(name) + len(value) + 4
        if size > self._bounds.max_header or len(name) > MAX_NAME:
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
        if lower == b"tracestate" and value.count(b",") >= MAX_TRACE_MEMBERS:
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
        request.method = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        if version != "1.1":
            if version == "0.9":  # llhttp's for a request line without a version
                raise malformed("The request line does not end in HTTP/1.1.")
            if version != "1.0":
                raise faults.version_unknown()
            request.http10 = True
        request.close = not parser.should_keep_alive()
        request.received = self._now()
        self.pending = 0
        self._framing = 0
        self._head_size = 0  # from here on it counts trailers
        if request.host != self._host:  # the host rarely changes within a connection
            _check_host(request)
            self._host = request.host
        _check(request, self._bounds)
        self._deliver(request)

    def on_chunk_header(self) -> None:
        self._framing -= CHUNK

    def on_body(self, data: bytes) -> None:
        request = self.current
        limit = self._bounds.max_body
        if limit and request.body_bytes + len(data) > limit:
            raise faults.body_too_large(self._bounds)
        self._framing -= len(data)
        request.feed(data)

    def on_message_complete(self) -> None:
        request = self.current
        if not (request.upgrade and request.has_body and self._parser.should_upgrade()):
            request.end()


def _ignore(_request: Request) -> None:
    pass


def _single(request: Request, lower: bytes, value: bytes) -> None:
    if lower == b"content-length":
        request.content_length = int(value)  # llhttp accepts only digits, below 2^64
    elif lower == b"transfer-encoding":
        if request.chunked or value.lower() != b"chunked":
            raise faults.coding_unknown()
        request.chunked = True
    elif lower == b"expect":
        request.expects_continue = value.lower() == b"100-continue"
        if not request.expects_continue:
            raise Fault(
                417, "Expectation failed", "The only supported expectation is 100-continue."
            )
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
    """Check Host (RFC 9112, section 3.2)."""
    host = request.host
    if len(host) > 1:
        raise malformed("Exactly one Host field is needed.")
    if host and not valid_host(host[0]):
        raise malformed("The Host field is not a host name and port.")


def _check(request: Request, bounds: Bounds) -> None:
    """Check what llhttp does not (RFC 9112, sections 3.2 and 6.1), and refuse some methods."""
    if not request.host and not request.http10:
        raise malformed("Exactly one Host field is needed.")
    if len(request.fields) > bounds.max_fields:
        raise faults.head_too_large(bounds)
    if request.chunked and (request.http10 or request.content_length is not None):
        raise malformed("A body must be framed in one way, and HTTP/1.0 has no transfer codings.")
    if request.method == "CONNECT":
        detail = "CONNECT is not supported: this is a gateway to one API."
        raise Fault(405, "Method not allowed", detail)
    if request.method == "TRACE":
        detail = "TRACE is not supported: it would send credentials back."
        raise Fault(405, "Method not allowed", detail)
    if not request.target.startswith(b"/"):
        _origin_form(request)
    if bounds.max_body and (request.content_length or 0) > bounds.max_body:
        raise faults.body_too_large(bounds)


def _origin_form(request: Request) -> None:
    """Rewrite an absolute target: its authority replaces Host (RFC 9112, section 3.2.2)."""
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


def is_forwarded(method: str) -> bool:
    """Whether the parser knows a method, written in capitals, and the proxy forwards it."""
    if method in ("CONNECT", "TRACE") or not method.replace("-", "").isalpha():
        return False
    try:
        HttpRequestParser(object()).feed_data(f"{method} / HTTP/1.1\r\n\r\n".encode())
    except HttpParserError:
        return False
    return True
