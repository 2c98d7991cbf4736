"""A JSON body: collected up to a limit, and parsed once at its end."""

from collections.abc import Sequence
from typing import Final

import orjson

from sidecar.bodies.coding import UnreadableBody
from sidecar.core.costs import Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading

MAX_JSON: Final = 1 << 20  # bytes, after content decoding
_BOM: Final = b"\xef\xbb\xbf"


class JsonBody:
    """Reads the values of a document when it is complete."""

    ended = False  # a document is incomplete until its last byte

    def __init__(self, paths: Sequence[tuple[str, JsonPath]]) -> None:
        self._paths = paths
        self._document = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises UnreadableBody."""
        if len(self._document) + len(data) > MAX_JSON:
            raise UnreadableBody(Unreadable.TOO_LARGE)
        self._document += data

    def finish(self) -> Reading:
        """The values, or the reason why they are missing."""
        try:
            # A byte order mark is ignored, as RFC 8259, section 8.1 allows.
            document = orjson.loads(self._document.removeprefix(_BOM))
        except orjson.JSONDecodeError:
            return Reading.failed((meter for meter, _ in self._paths), Unreadable.NOT_JSON)
        return Reading.from_document(document, self._paths)
