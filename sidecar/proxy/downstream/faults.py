"""Faults of a client's message, and the responses to them."""

from sidecar.proxy.bounds import Bounds


class Fault(Exception):
    """A fault of the client's message. The connection closes after one response."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        super().__init__(detail)


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
    return Fault(501, "Method not supported", "The request method is unknown.")


def version_unknown() -> Fault:
    """505 (RFC 9110, section 15.6.6)."""
    return Fault(505, "HTTP version not supported", "Only HTTP/1.1 and HTTP/1.0 are supported.")


def too_slow() -> Fault:
    """408 (RFC 9110, section 15.5.9)."""
    return Fault(408, "Request timeout", "The request took too long to arrive.")
