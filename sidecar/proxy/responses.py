"""Responses that the sidecar gives itself: their content, their bytes, and the choice by Accept."""

import json
import re
import time
from email.utils import formatdate
from typing import Any, Final, NamedTuple

from sidecar.core.model import Entitlement, Key
from sidecar.core.refusals.build import Refusal
from sidecar.core.refusals.problems import Fields
from sidecar.core.refusals.rendering import render_json, render_text

EXPECT: Final = b"Expect: 100-continue\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

PHRASES: Final = {
    200: b"OK", 202: b"Accepted", 204: b"No Content",
    400: b"Bad Request", 401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden",
    404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout", 409: b"Conflict",
    413: b"Content Too Large", 414: b"URI Too Long", 417: b"Expectation Failed",
    422: b"Unprocessable Content", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported", 508: b"Loop Detected",
}  # fmt: skip


class LocalReply(NamedTuple):
    """A response that the sidecar gives itself, without the upstream.

    `reason` is its label in the metrics and in the access log. `content`: a refusal is rendered as
    the client prefers, a mapping as JSON; None is for a response without a body. `key` and
    `entitlement` are for the access log.
    """

    request_id: str
    status: int
    reason: str
    content: Refusal | dict[str, Any] | None
    fields: Fields = ()
    key: Key | None = None
    entitlement: Entitlement | None = None


def refusal_reply(
    request_id: str,
    refusal: Refusal,
    key: Key | None = None,
    entitlement: Entitlement | None = None,
) -> LocalReply:
    """The reply that carries a refusal."""
    fields = refusal.headers
    if refusal.retry_after_s is not None:
        fields = ((b"Retry-After", b"%d" % refusal.retry_after_s), *fields)
    return LocalReply(request_id, refusal.status, refusal.reason, refusal, fields, key, entitlement)


def reply_bytes(reply: LocalReply, *, accept: bytes, close: bool) -> tuple[bytes, bytes]:
    """The whole response: head and body. `accept` is the value of the client's Accept field."""
    body = content_fields = b""
    if reply.content is not None:
        kind, body = _render(reply.content, accept)
        content_fields = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (kind, len(body))
    head = (
        b"HTTP/1.1 %d %b\r\n%bCache-Control: no-store\r\n"
        b"X-Content-Type-Options: nosniff\r\nDate: %b\r\nX-Request-Id: %b\r\n%b%b\r\n"
        % (
            reply.status,
            PHRASES[reply.status],
            content_fields,
            _date(),
            reply.request_id.encode(),
            b"".join([b"%b: %b\r\n" % field for field in reply.fields]),
            b"Connection: close\r\n" if close else b"",
        )
    )
    return head, body


def _render(content: Refusal | dict[str, Any], accept: bytes) -> tuple[bytes, bytes]:
    """Content-Type and body."""
    if not isinstance(content, Refusal):
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        return b"application/json", body
    if prefers_text(accept):
        return b"text/plain; charset=utf-8", render_text(content)
    return b"application/problem+json", render_json(content)


class DateField:
    """The value of Date (RFC 9110, section 6.6.1), formatted once per second."""

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


MAX_MEMBERS: Final = 32  # of an Accept field that are read
_ANY: Final = b"*/*"
_RANKS: Final = {  # how closely a media range fits: the closest one decides
    b"application/problem+json": ("json", 4),
    b"application/json": ("json", 3),
    b"application/*": ("json", 2),
    b"text/plain": ("text", 4),
    b"text/*": ("text", 2),
}
_WEIGHT: Final = re.compile(
    rb";[ \t]*q=(?:0(?:\.([0-9]{0,3}))?|(1)(?:\.0{0,3})?)[ \t]*(?:;|$)", re.IGNORECASE
)
_HAS_WEIGHT: Final = re.compile(rb";[ \t]*q=", re.IGNORECASE)


def prefers_text(accept: bytes) -> bool:
    """Whether the client prefers plain text to JSON. `accept` is the value of its Accept field.

    JSON is the default: without the field, on equal weights, and if neither is accepted. Media
    type parameters other than the weight are ignored.
    """
    if not accept or accept == _ANY:
        return False
    best = {"json": (0, 0), "text": (0, 0)}  # rank, and weight in thousandths
    for member in accept.split(b",", MAX_MEMBERS)[:MAX_MEMBERS]:
        media = member.partition(b";")[0].strip(b" \t").lower()
        ranks = [_RANKS[media]] if media in _RANKS else []
        if media == _ANY:
            ranks = [("json", 1), ("text", 1)]
        for kind, rank in ranks:
            best[kind] = max(best[kind], (rank, _weight(member)))
    return best["text"][1] > best["json"][1]


def _weight(member: bytes) -> int:
    """In thousandths. An invalid weight counts as 0."""
    match = _WEIGHT.search(member)
    if match is None:
        return 0 if _HAS_WEIGHT.search(member) else 1000
    return 1000 if match[2] else int((match[1] or b"0").ljust(3, b"0"))
