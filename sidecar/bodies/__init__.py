"""Reads costs from bodies while they are forwarded: from JSON or from an event stream.

Nothing here changes or delays a byte: the proxy passes copies of what it forwards.
"""

from sidecar.bodies.readers import BodyReader, read_request, reader_for

__all__ = ["BodyReader", "read_request", "reader_for"]
