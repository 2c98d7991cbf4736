"""Our own answers as bytes: refusals and the proxy's errors."""

import json
import re
import time
from email.utils import formatdate
from typing import Any, Final, NamedTuple

from sidecar.core.refusals.build import Refusal
from sidecar.core.refusals.problems import Fields
from sidecar.core.refusals.rendering import render_json, render_text

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


class JsonAnswer(NamedTuple):
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


MEMBERS: Final = 32  # of a list that are looked at
_RANKS: Final = {  # how closely a media range fits: the closest one decides
    b"application/problem+json": ("json", 4),
    b"application/json": ("json", 3),
    b"application/*": ("json", 2),
    b"text/plain": ("text", 4),
    b"text/*": ("text", 2),
}
_ANY: Final = b"*/*"
_WEIGHT: Final = re.compile(
    rb";[ \t]*q=(?:0(?:\.([0-9]{0,3}))?|(1)(?:\.0{0,3})?)[ \t]*(?:;|$)", re.IGNORECASE
)
_WEIGHS: Final = re.compile(rb";[ \t]*q=", re.IGNORECASE)
_Best = tuple[int, int]  # how closely it fits, and its weight in thousandths


def prefers_text(accept: bytes) -> bool:
    """Whether plain text is wanted more than JSON. `accept` is the value of the field.

    In doubt it is JSON: without the field, at equal weights, and when neither is wanted. Other
    parameters than the weight are not compared: whoever names one is best served all the same.
    """
    if not accept or accept == _ANY:
        return False
    best: dict[str, _Best] = {"json": (0, 0), "text": (0, 0)}
    for member in accept.split(b",", MEMBERS)[:MEMBERS]:
        media = member.partition(b";")[0].strip(b" \t").lower()
        found = [_RANKS[media]] if media in _RANKS else []
        if media == _ANY:
            found = [("json", 1), ("text", 1)]
        for kind, rank in found:
            best[kind] = max(best[kind], (rank, _weight(member)))
    return best["text"][1] > best["json"][1]


def _weight(member: bytes) -> int:
    """In thousandths. What is no weight weighs nothing."""
    found = _WEIGHT.search(member)
    if found is None:
        return 0 if _WEIGHS.search(member) else 1000
    return 1000 if found[2] else int((found[1] or b"0").ljust(3, b"0"))
