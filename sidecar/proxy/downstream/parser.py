"""Parses the bytes of one client connection into requests, with llhttp and further checks.

Strict on purpose (RFC 9112, sections 3, 5 and 6): a message that two correct parsers could read in
two ways is a Fault, and after a Fault the parser reads nothing more of the connection.
"""

from collections.abc import Callable
from typing import Final

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from sidecar.logs import logger
from sidecar.proxy.bounds import (
    CHUNK,
    CHUNKS_PER_S,
    FRAMING,
    FREE_CHUNKS,
    MEAN_CHUNK,
    Bounds,
)
from sidecar.proxy.downstream import faults
from sidecar.proxy.downstream.checks import (
    OF_INTEREST,
    check_head,
    check_host,
    take_single,
)
from sidecar.proxy.downstream.faults import Fault, malformed
from sidecar.proxy.downstream.llhttp_errors import fault_of
from sidecar.proxy.downstream.methods import LONGEST, STAND_IN, split_start
from sidecar.proxy.downstream.request import Request, Values
from sidecar.proxy.field_rules import DROP, rule_of
from sidecar.proxy.headers import NOT_IN_TRAILERS, USUAL

log = logger("proxy")

SLICE: Final = 4_096
MAX_NAME: Final = 256

_NO_REQUEST: Final = Request("")  # before the first request of a connection; never changed
_NO_REQUEST.complete = True


class RequestParser:
    """A parser that calls `on_request` for each complete head."""

    __slots__ = (
        "_address", "_begun", "_bounds", "_chunks", "_deliver", "_framing", "_head_size", "_held",
        "_host", "_lead", "_method",
        "_now", "_parser", "_target_size", "_trusted", "_url", "current", "lines",
        "pending",
    )  # fmt: skip
    __deletable__ = ("_parser",)  # mypyc requires it

    def __init__(
        self,
        bounds: Bounds,
        address: str,
        now: Callable[[], float],
        on_request: Callable[[Request], None],
        *,
        trusted: bool = False,
    ) -> None:
        self.current = _NO_REQUEST  # the request that is being parsed, or the last one
        self.pending = 0  # bytes of a head that is not complete yet
        self._bounds = bounds
        self._address = address
        self._now = now
        self._deliver = on_request
        self._parser = HttpRequestParser(self)
        self._trusted = trusted  # the peer may choose the fields of rule FROM_TRUSTED
        self._head_size = 0
        self._target_size = 0
        self.lines = 0  # of the current head or trailers
        self._chunks = 0  # of the current body
        self._url: list[bytes] | None = None  # further pieces of the current target
        self._host: Values = ()  # of the last request, which is valid
        self._lead = b""  # all bytes of a head so far, if they are few
        self._held = b""  # of these, what llhttp has not got: a method that may be unknown to it
        self._method = ""  # in place of the stand-in
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
        if self._chunks > FREE_CHUNKS:
            self._check_chunks()
        return rest

    def _check_chunks(self) -> None:
        """Refuse a flood of tiny chunks, but not a long stream whose chunks are small."""
        current = self.current
        earned = current.body_bytes // MEAN_CHUNK
        earned += int((self._now() - current.received) * CHUNKS_PER_S)
        if current.received and self._chunks > FREE_CHUNKS + earned:
            raise faults.too_many_chunks()

    def _feed(self, data: bytes | memoryview, *, first: bool = False) -> bytes:
        """Feed llhttp. `first`: `data` begins with a request, as it also does between requests."""
        lead = self._lead
        first = first or self.current.complete
        self._begun = 0
        if self._held:
            data, self._held, first = self._held + data, b"", True
        failed: Exception | None = None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            failed = upgrade.with_traceback(None)
        except HttpParserCallbackError as failure:
            cause = failure.__context__
            if isinstance(cause, Fault):
                raise cause from None
            log.error("request_parse_failed", exc_info=cause)
            raise Fault(500, "Internal error", "The request could not be parsed.") from None
        except HttpParserError as error:
            failed = error.with_traceback(None)  # which would hold this frame and its bytes
        if failed is not None:  # outside of `except`: it would be the context of further errors
            if isinstance(failed, HttpParserUpgrade):
                return self._after_upgrade(bytes(data[failed.args[0] :]))
            known = self._begun <= 1 if first else bool(lead) and not self._begun
            return self._feed_stand_in(lead + data if known else b"", failed)
        if self.pending and (first or lead):
            self._lead = lead + data if self.pending <= LONGEST else b""
        return b""

    def _after_upgrade(self, rest: bytes) -> bytes:
        self._parser = HttpRequestParser(self)
        current = self.current
        if not current.has_body:
            return rest
        self._reframe(current)
        return self._feed(rest)

    def _feed_stand_in(self, start: bytes, error: Exception) -> bytes:
        """Parse a request again if only its method is unknown to llhttp. Raises Fault.

        `start`: the bytes of the request so far; b"" if they are unknown.
        """
        split = None
        if isinstance(error, HttpParserInvalidMethodError) and not self._method:
            split = split_start(start)
        if split is None:
            in_head = not self.current.complete and not self.current.received
            raise fault_of(error, in_head=in_head, begins_with=start) from None
        self._parser = HttpRequestParser(self)
        self._lead = b""
        if not split.method:
            self._held = start  # its method is not complete
            return b""
        self._method = split.method.decode("ascii")
        return self._feed(STAND_IN + split.rest, first=True)

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
        self._join_target()
        if not current.method and current.target:
            current.method = self._method or self._parser.get_method().decode("ascii")
        return current

    # callbacks of llhttp

    def on_message_begin(self) -> None:
        self.current = Request(self._address)
        self._begun += 1
        self._head_size = self._target_size = self.lines = self._chunks = 0

    def on_url(self, url: bytes) -> None:
        request = self.current
        size = self._target_size = self._target_size + len(url)
        if size > self._bounds.max_target:
            raise faults.target_too_long(self._bounds)
        if not request.target:
            request.target = url
        elif self._url is None:
            self._url = [url]
        else:
            self._url.append(url)

    def _join_target(self) -> None:
        pieces, self._url = self._url, None
        if pieces is not None:
            self.current.target += b"".join(pieces)

    def on_header(self, name: bytes, value: bytes) -> None:
        request, bounds = self.current, self._bounds
        lines = self.lines = self.lines + 1  # each line that came in, forwarded or not
        size = self._head_size = self._head_size + len(name) + len(value) + 4
        if size > bounds.max_header or lines > bounds.max_fields:
            raise faults.head_too_large(bounds)
        lower = USUAL.get(name)
        if lower is None:
            if len(name) > MAX_NAME:
                raise faults.head_too_large(bounds)
            lower = name.lower()
            rule = rule_of(lower)
            if rule and (rule == DROP or request.received or not self._trusted):
                return
        if request.received:
            if lower not in NOT_IN_TRAILERS:
                request.add_trailer(lower, b"%b: %b\r\n" % (name, value))
            return
        value = value.strip(b" \t")
        interest = OF_INTEREST.get(lower)
        if interest is not None:
            attribute, forwarded = interest
            if not attribute:
                take_single(request, lower, value)
            elif getattr(request, attribute):
                request.add_value(attribute, value)
            else:  # mostly the only one
                setattr(request, attribute, (value,))
            if not forwarded:
                return
        request.fields.append((lower, b"%b: %b\r\n" % (name, value)))

    def on_headers_complete(self) -> None:
        request, parser = self.current, self._parser
        request.method = self._method or parser.get_method().decode("ascii")
        self._method, self._lead = "", b""
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
        self._head_size = self.lines = 0  # from here on they count trailers
        if self._url is not None:
            self._join_target()
        if request.host != self._host:  # the host rarely changes within a connection
            check_host(request)
            self._host = request.host
        check_head(request, self._bounds)
        self._deliver(request)

    def on_chunk_header(self) -> None:
        self._framing -= CHUNK
        self._chunks += 1

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
