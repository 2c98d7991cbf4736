"""llhttp's errors as faults for clients: its own texts describe its internals."""

import re
from typing import Final

from httptools import HttpParserInvalidMethodError, HttpParserInvalidURLError

from sidecar.proxy.downstream import faults
from sidecar.proxy.downstream.faults import Fault, malformed
from sidecar.proxy.downstream.methods import PROXY_V1, PROXY_V2, TLS

# A request line whose method is a token (RFC 9112, section 3), at the beginning of a read.
_REQUEST_LINE: Final = re.compile(
    rb"(?:\r?\n)*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} [\x21-\x7e]+ HTTP/1\.[01]\r\n"
)
_TWO_FRAMINGS: Final = "The body is framed in two ways: Content-Length and Transfer-Encoding."
_NO_VERSION: Final = "The request line does not end in HTTP/1.1."
# A part of llhttp's text (9.x), and the detail of the fault. The first match counts.
_DETAILS: Final = (
    ("transfer-encoding can't be present", _TWO_FRAMINGS),
    ("content-length can't be present", _TWO_FRAMINGS),
    ("content-length", "Content-Length is not a plain number."),
    ("data after `connection: close`", "More was sent after a request with Connection: close."),
    ("chunk", "The chunked body is not valid."),
    ("expected http/", _NO_VERSION),
    ("version", _NO_VERSION),
    ("start line", "A line of white space follows the request line."),
    ("header", "A header field is not valid."),
    ("expected lf", "A line does not end in CR LF."),
    ("expected cr", "A line does not end in CR LF."),
    ("url", "The request target is not valid."),
)


def fault_of(error: Exception, *, in_head: bool, begins_with: bytes) -> Fault:
    """The fault for a parser error.

    `in_head`: the head of the request was incomplete. `begins_with`: its first bytes, b"" if they
    are unknown.
    """
    if isinstance(error, HttpParserInvalidMethodError):
        if PROXY_V1.match(begins_with) or begins_with.startswith(PROXY_V2):
            return faults.proxy_protocol()
        if begins_with.startswith(TLS):
            return faults.tls_on_plain_port()
        if not begins_with or _REQUEST_LINE.match(begins_with):
            return faults.method_unknown()
        return malformed("The request line does not begin with a known method.")
    if isinstance(error, HttpParserInvalidURLError):
        return malformed("The request target is not valid.")
    text = str(error).lower()
    if "pause on pri" in text or "invalid http version" in text:
        return faults.version_unknown()
    if "invalid method for" in text:
        return faults.method_unknown()
    if in_head and "transfer-encoding" in text and "length" not in text:
        return faults.coding_unknown()
    detail = next((detail for part, detail in _DETAILS if part in text), "")
    return malformed(detail or "This is not a valid HTTP/1.1 request.")
