"""Methods that llhttp does not know, which a gateway forwards too (RFC 9110, 16.1.1).

llhttp stops at the first byte of such a method. The parser then reads the request with a stand-in,
and gives it its own method back. This needs the beginning of the request line: it is known if the
request begins a read. An unknown method within a pipeline gets 501.
"""

import re
from typing import Final, NamedTuple

from httptools import HttpParserError, HttpRequestParser

STAND_IN: Final = b"PATCH"  # has no meaning of its own for llhttp
LONGEST: Final = 64  # bytes of the beginning of a request that are kept
# Frameworks read some methods in any case. So a method with small letters is not forwarded: it
# could be served as a method that was not priced.
_START: Final = re.compile(rb"((?:\r?\n){0,8})([A-Z][A-Z0-9._-]{0,31})( ?)")
PROXY_V1: Final = re.compile(rb"PROXY [TU]")  # TCP4, TCP6 or UNKNOWN
PROXY_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
TLS: Final = b"\x16\x03"


class Start(NamedTuple):
    """The beginning of a request: its method, b"" while that is incomplete, and what follows."""

    method: bytes
    rest: bytes


def split_start(data: bytes) -> Start | None:
    """Split the beginning of a request after its method; None if the method is not valid.

    The method is incomplete, too, while another protocol may have begun.
    """
    if data == b"PROXY " or (data and (PROXY_V2.startswith(data) or TLS.startswith(data))):
        return None if data in (PROXY_V2, TLS) else Start(b"", data)  # what follows decides
    found = _START.match(data)
    if found is None or PROXY_V1.match(data):
        return None
    if found[3]:
        return Start(found[2], data[found.end(2) :])
    complete = found.end() < len(data) or len(data) >= LONGEST
    return None if complete else Start(b"", data)


def is_forwarded(method: str) -> bool:
    """Whether the proxy forwards requests with this method."""
    data = method.encode("ascii", "replace")
    start = split_start(data + b" /")
    if start is None or start.method != data or method in ("CONNECT", "TRACE", "PRI"):
        return False
    parser = HttpRequestParser(object())
    try:
        parser.feed_data(b"%b / HTTP/1.1\r\n\r\n" % data)
    except HttpParserError as error:
        return "invalid method for" not in str(error).lower()  # those are RTSP's
    return True
