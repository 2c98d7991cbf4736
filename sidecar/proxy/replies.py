"""Our own answers as bytes: refusals and the proxy's errors."""

import json
import time
from email.utils import formatdate
from typing import Any, NamedTuple

from sidecar.core.problems import Fields
from sidecar.core.refusals import Refusal
from sidecar.core.rendering import render_json, render_text
from sidecar.proxy.accepting import prefers_text

_PHRASES = {
    200: b"OK", 202: b"Accepted",
    400: b"Bad Request", 401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden",
    404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large", 414: b"URI Too Long", 417: b"Expectation Failed",
    422: b"Unprocessable Content", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported", 508: b"Loop Detected",
}  # fmt: skip

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# To an OPTIONS that may go no further (RFC 9110, section 7.6.2).
OPTIONS = (
    b"HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    b"Cache-Control: no-store\r\n"
)


class Told(NamedTuple):
    """An answer of ours that refuses nothing: a JSON document."""

    status: int
    document: dict[str, Any]
    fields: Fields = ()

    @property
    def body(self) -> bytes:
        """The document's bytes."""
        return json.dumps(self.document, ensure_ascii=False, separators=(",", ":")).encode()


class DateField:
    """The Date field (RFC 9110, section 6.6.1), formatted once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode()
        return self._text


_date = DateField()


def refusal_bytes(
    refusal: Refusal, request_id: str, *, accept: bytes, close: bool
) -> tuple[bytes, bytes]:
    """A whole response for a refusal: head and body."""
    if prefers_text(accept):
        kind, body = b"text/plain; charset=utf-8", render_text(refusal)
    else:
        kind, body = b"application/problem+json", render_json(refusal)
    parts = [
        b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
        b"Date: %b\r\nX-Request-Id: %b\r\n"
        % (
            refusal.status,
            _PHRASES[refusal.status],
            kind,
            len(body),
            _date(),
            request_id.encode(),
        )
    ]
    if refusal.retry_after_s is not None:
        parts.append(b"Retry-After: %d\r\n" % refusal.retry_after_s)
    parts.extend(b"%b: %b\r\n" % field for field in refusal.headers)
    parts.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(parts), body


def json_bytes(
    status: int, body: bytes, request_id: str, fields: Fields, *, close: bool
) -> tuple[bytes, bytes]:
    """A whole response of ours that is no refusal: head and body, a JSON document."""
    parts = [
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Cache-Control: no-store\r\nDate: %b\r\nX-Request-Id: %b\r\n"
        % (status, _PHRASES[status], len(body), _date(), request_id.encode())
    ]
    parts.extend(b"%b: %b\r\n" % field for field in fields)
    parts.append(b"Connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(parts), body
