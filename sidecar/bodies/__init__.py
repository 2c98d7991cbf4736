"""Reads costs from bodies while they are forwarded: from JSON or from an event stream.

The readers change and delay no byte: the proxy passes copies of what it forwards. `stream_usage`
changes bodies, for routes that ask for it.
"""

from sidecar.bodies.readers import BodyReader, decoded_size, is_multipart, read_request, reader_for
from sidecar.bodies.stream_usage import UsageFilter, with_usage_asked

__all__ = [
    "BodyReader",
    "UsageFilter",
    "decoded_size",
    "is_multipart",
    "read_request",
    "reader_for",
    "with_usage_asked",
]
