"""A request that a gateway asks about, as the gate takes it."""

from collections.abc import Iterable
from typing import Final

from sidecar.proxy.downstream.checks import LISTED
from sidecar.proxy.downstream.request import Request

MAX_LENGTH: Final = 19  # digits of Content-Length

# The fields that a decision can depend on, without those that a plan file names as costs.
_READ: Final = frozenset(
    {
        b"x-api-key", b"authorization", b"prefer", b"content-type", b"content-encoding", b"accept",
        b"traceparent",
    }
)  # fmt: skip


def gateway_request(
    method: str,
    target: bytes,
    fields: Iterable[tuple[bytes, bytes]],
    address: str,
    *,
    most_wait_us: int = 0,
) -> Request:
    """Return a request with these header fields (name in lower case, value), from this client.

    `most_wait_us`: the longest wait for a limit. A repeated field stays repeated: the gate refuses
    two credentials. An invalid Content-Length counts as none.
    """
    request = Request(address)
    request.method = method
    request.target = target
    request.most_wait_us = most_wait_us
    for name, value in fields:
        if name not in _READ:
            if name == b"content-length" and value.isdigit() and len(value) <= MAX_LENGTH:
                request.content_length = int(value)
        elif name == b"content-type":
            request.content_type = value
        elif getattr(request, LISTED[name]):
            request.add_value(LISTED[name], value)
        else:
            setattr(request, LISTED[name], (value,))
        request.fields.append((name, b"%b: %b\r\n" % (name, value)))
    return request
