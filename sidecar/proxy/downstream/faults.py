"""Faults of a client's message, and the responses to them."""

from typing import Final

from sidecar.proxy.bounds import MEAN_CHUNK, Bounds

Fields = tuple[tuple[bytes, bytes], ...]
# RFC 9110, section 15.5.6: a 405 names the methods that the gateway itself does not refuse.
ALLOW: Final[Fields] = ((b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),)


class Fault(Exception):
    """A fault of the client's message. The connection closes after one response with `fields`."""

    def __init__(self, status: int, title: str, detail: str, fields: Fields = ()) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.fields = fields
        super().__init__(detail)


class OtherProtocol(Fault):
    """400: the peer speaks another protocol first. `protocol`: its name; `remedy`: for the log."""

    def __init__(self, protocol: str, detail: str, remedy: str) -> None:
        self.protocol = protocol
        self.remedy = remedy
        super().__init__(400, "Malformed request", detail)


def malformed(detail: str) -> Fault:
    """400: not HTTP, or ambiguous."""
    return Fault(400, "Malformed request", detail)


def head_too_large(bounds: Bounds) -> Fault:
    """431 (RFC 6585, section 5)."""
    return Fault(
        431,
        "Request header fields too large",
        f"Send at most {bounds.max_fields} header fields with {bounds.max_header} bytes in total.",
    )


def target_too_long(bounds: Bounds) -> Fault:
    """414 (RFC 9110, section 15.5.15)."""
    return Fault(
        414,
        "Request target too long",
        f"The request target is longer than {bounds.max_target} bytes.",
    )


def body_too_large(bounds: Bounds) -> Fault:
    """413 (RFC 9110, section 15.5.14)."""
    return Fault(413, "Request body too large", f"A body may have at most {bounds.max_body} bytes.")


def coding_unknown() -> Fault:
    """501 (RFC 9112, section 6.1)."""
    return Fault(
        501,
        "Transfer coding not supported",
        "The only supported transfer coding is chunked, applied once.",
    )


def method_unknown() -> Fault:
    """501 (RFC 9110, section 9.1)."""
    detail = "The request method is unknown."
    return Fault(501, "Method not supported", detail, ALLOW)


def method_refused(detail: str) -> Fault:
    """405 (RFC 9110, section 15.5.6)."""
    return Fault(405, "Method not allowed", detail, ALLOW)


def too_many_chunks() -> Fault:
    """400: a body in chunks so small that parsing them costs far more than they carry."""
    return malformed(
        f"The body comes in too many tiny chunks: send {MEAN_CHUNK} bytes or more per chunk."
    )


def proxy_protocol() -> Fault:
    """400: a load balancer sends a PROXY protocol header first."""
    return OtherProtocol(
        "PROXY protocol",
        "The connection begins with a PROXY protocol header, which is not supported.",
        "turn the PROXY protocol off at the load balancer (HAProxy: send-proxy), let it send "
        "X-Forwarded-For, and name it in --trusted-proxies",
    )


def tls_on_plain_port() -> Fault:
    """400: a TLS handshake on a port without TLS."""
    return OtherProtocol(
        "TLS",
        "The connection begins with a TLS handshake, and this port has no TLS: use http://.",
        "send plain HTTP to this port, or set --tls-cert and --tls-key",
    )


def version_unknown() -> Fault:
    """505 (RFC 9110, section 15.6.6)."""
    return Fault(505, "HTTP version not supported", "Only HTTP/1.1 and HTTP/1.0 are supported.")


def too_slow() -> Fault:
    """408 (RFC 9110, section 15.5.9)."""
    return Fault(408, "Request timeout", "The request took too long to arrive.")


def too_many_heads() -> Fault:
    """503: unfinished heads, of this client address or of all, take too much memory."""
    return Fault(503, "Too many unfinished requests", "Send the whole header of a request at once.")
