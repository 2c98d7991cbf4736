"""The fields that the sidecar reads, and checks of a head that llhttp does not make."""

import re
from typing import Final

from sidecar.proxy.bounds import Bounds
from sidecar.proxy.downstream import faults
from sidecar.proxy.downstream.faults import Fault, malformed
from sidecar.proxy.downstream.request import Request
from sidecar.proxy.headers import NOT_FORWARDED, valid_host

MAX_LENGTH: Final = 1 << 63  # Content-Length is below it: peers count in signed integers
LISTED: Final = {
    b"host": "host",
    b"x-api-key": "api_keys",
    b"authorization": "authorizations",
    b"connection": "connection",
    b"traceparent": "traceparents",
    b"tracestate": "tracestates",
    b"accept": "accepts",
    b"content-encoding": "content_encodings",
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
    {b"content-length", b"transfer-encoding", b"expect", b"max-forwards", b"content-type"}
)
# The fields that the sidecar reads: the attribute of `LISTED`, and whether they are forwarded.
OF_INTEREST: Final = {
    lower: (LISTED.get(lower, ""), lower not in NOT_FORWARDED)
    for lower in frozenset(LISTED) | _SINGLE | NOT_FORWARDED
}
# llhttp takes these methods only if the request line ends in RTSP/1.0 instead of HTTP/1.1.
_RTSP: Final = frozenset(
    {
        "ANNOUNCE", "DESCRIBE", "FLUSH", "GET_PARAMETER", "PAUSE", "PLAY", "RECORD", "REDIRECT",
        "SETUP", "SET_PARAMETER", "TEARDOWN",
    }
)  # fmt: skip
_REFUSED: Final = _RTSP | {"CONNECT", "TRACE"}
ABSOLUTE: Final = re.compile(rb"https?://([^/?#@\\]+)((?:[/?].*)?)", re.IGNORECASE | re.DOTALL)


def take_single(request: Request, lower: bytes, value: bytes) -> None:
    """Note the value of a field that occurs once. Raises Fault."""
    if lower == b"content-length":
        request.content_length = int(value)  # llhttp accepts only digits, below 2^64
        if request.content_length >= MAX_LENGTH:
            raise malformed("Content-Length is too large.")
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
    elif lower == b"content-type":
        if request.content_type:
            raise malformed("There is more than one Content-Type.")
        request.content_type = value


def check_host(request: Request) -> None:
    """Check Host (RFC 9112, section 3.2). Raises Fault."""
    host = request.host
    if len(host) > 1:
        raise malformed("Exactly one Host field is needed.")
    if host and not valid_host(host[0]):
        raise malformed("The Host field is not a host name and port.")


def check_head(request: Request, bounds: Bounds) -> None:
    """Check framing, target and body (RFC 9112, sections 3.2 and 6.1), and refuse some methods.

    Raises Fault.
    """
    if not request.host and not request.http10:
        raise malformed("Exactly one Host field is needed.")
    if request.chunked and (request.http10 or request.content_length is not None):
        raise malformed("A body must be framed in one way, and HTTP/1.0 has no transfer codings.")
    if request.method in _REFUSED:
        raise _refused(request.method)
    if not request.target.startswith(b"/"):
        _origin_form(request)
    if bounds.max_body and (request.content_length or 0) > bounds.max_body:
        raise faults.body_too_large(bounds)


def _refused(method: str) -> Fault:
    if method == "CONNECT":
        return faults.method_refused("CONNECT is not supported: this is a gateway to one API.")
    if method == "TRACE":
        return faults.method_refused("TRACE is not supported: it would send credentials back.")
    return faults.version_unknown()


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
