"""A JSON body: kept while it passes, up to a bound, and parsed once at its end."""

from collections.abc import Sequence
from typing import Final

import orjson

from sidecar.bodies.coding import Unread
from sidecar.core.costs import Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading

MOST_JSON: Final = 1 << 20  # bytes of decoded JSON that are kept
_BOM: Final = b"\xef\xbb\xbf"


class JsonBody:
    """Reads the values of a document when all of it is there."""

    ended = False  # only its last byte ends it

    def __init__(self, paths: Sequence[tuple[str, JsonPath]]) -> None:
        self._paths = paths
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
        """Keep what passes. Raises Unread."""
        if len(self._kept) + len(data) > MOST_JSON:
            raise Unread(Unreadable.TOO_LARGE)
        self._kept += data

    def finish(self) -> Reading:
        """The values, or why there are none."""
        try:
            # A byte order mark is ignored, as RFC 8259, section 8.1 allows.
            document = orjson.loads(self._kept.removeprefix(_BOM))
        except orjson.JSONDecodeError:
            return Reading.nothing((meter for meter, _ in self._paths), Unreadable.NOT_JSON)
        return Reading.from_document(document, self._paths)
