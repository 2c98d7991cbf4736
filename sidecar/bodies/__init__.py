"""Bodies, read while they pass: what they cost, told by their JSON or their event stream.

Nothing here changes a byte or holds one back: the door hands over copies of what it forwards.
"""

from sidecar.bodies.readers import BodyReader, read_request, reader_for

__all__ = ["BodyReader", "read_request", "reader_for"]
