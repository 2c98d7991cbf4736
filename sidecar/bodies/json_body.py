"""Bodies of JSON documents: one, or one per line."""

from typing import Final

from sidecar.bodies.coding import UnreadableBody
from sidecar.bodies.found import Document, Found

_RECORD: Final = b"\x1e"  # RFC 7464


class JsonBody:
    """Reads the values of one document. `most`: as of the document."""

    ended = False  # a document is incomplete until its last byte

    def __init__(self, found: Found, most: int | None = None) -> None:
        self.found = found
        self._document = Document(found, most)

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises UnreadableBody."""
        self._document.feed(data)

    def finish(self, *, complete: bool) -> None:
        """Take what the body has. Raises UnreadableBody if a complete one is not JSON.

        In an incomplete one, the values that are complete count.
        """
        if complete:
            self._document.end()
        else:
            self._document.cut()


class JsonLines:
    """Reads the values of a document per line: NDJSON, JSON Lines and JSON text sequences.

    A text sequence has a record separator before each document, which may have line ends in it.
    """

    def __init__(self, found: Found) -> None:
        self.found = found
        self._separator: bytes | None = None  # not known before the first byte
        self._document = Document(found)
        self._begun = False

    @property
    def ended(self) -> bool:
        """Whether a document said that it was the last one."""
        return self.found.ended

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._separator is None:
            self._separator = _RECORD if data.startswith(_RECORD) else b"\n"
        lines = data.split(self._separator)
        for line in lines[:-1]:
            self._keep(line)
            self._end_line(complete=True)
        self._keep(lines[-1])

    def finish(self, *, complete: bool) -> None:
        """Take the last line."""
        self._end_line(complete=complete)

    def _keep(self, part: bytes) -> None:
        part = part.strip(b"\x1e \t\r\n") if not self._begun else part
        if part:
            self._begun = True
            try:
                self._document.feed(part)
            except UnreadableBody:
                self._document.broken = True

    def _end_line(self, *, complete: bool) -> None:
        if not self._begun:
            return
        try:
            if complete:
                self._document.end()
            else:
                self._document.cut()
        except UnreadableBody:
            self.found.skip()
        self._document, self._begun = Document(self.found), False
