"""Reads a server-sent event stream line by line (WHATWG HTML, section 9.2.6).

The last value in the stream counts: AI APIs report usage in the last chunk, or in running totals.
"""

import re
from typing import Final

from sidecar.bodies.coding import UnreadableBody
from sidecar.bodies.found import Document, Found

MAX_LINE: Final = 1 << 16  # bytes of a line that are kept
_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = re.compile(rb"\n{3,}")
_NAME: Final = 8  # bytes: a byte order mark and "data:"
_MOST_LINES: Final = 256  # lines of data that are kept
_PASSES: Final = b"\x00data"  # the rest of a line whose beginning is in the document already


class EventStream:
    """Reads the values in each event's data. Keeps a part of one event, never the stream.

    `ended`: the stream has sent its last event, so nothing is missing if it breaks off.
    """

    def __init__(self, found: Found) -> None:
        self.found = found
        self._line = bytearray()  # the current line
        self._line_lost = False
        self._data: list[bytes] = []  # of the current event
        self._document: Document | None = None  # of the current event, if it is long
        self._is_error = False  # the current event is named "error"
        self._at_start = True
        self._after_cr = False
        self._done = False

    @property
    def ended(self) -> bool:
        """Whether the last event has passed: `[DONE]`, or one with such a type."""
        return self._done or self.found.ended

    def feed(self, data: bytes) -> None:
        """Take the next bytes, and read the lines that end in them."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if not data:
            return
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n\n\n" in data:  # padding: many blank lines mean the same as one
            data = _BLANK.sub(b"\n\n", data)
        lines = data.split(b"\n")
        begun = lines.pop()
        if lines:
            self._keep(lines[0])
            self._end_line()
        for line in lines[1:]:
            if not line:
                self._end_event()
            elif line.startswith(b"data"):
                self._data_line(line)
            elif line.startswith(b"event"):
                self._event_line(line)
        self._keep(begun)

    def finish(self, *, complete: bool) -> None:  # noqa: ARG002 - an event may lack its end
        """Take the last event.

        Data without a blank line at its end counts too: browsers drop it, but the body is complete
        and the cost in it is real.
        """
        self._end_line()
        self._end_event()

    def _keep(self, part: bytes) -> None:
        if not part:
            return
        if self._document is not None and self._line == _PASSES:
            self._feed(part)
            return
        if self._line_lost:
            return
        self._line += part
        if len(self._line) > MAX_LINE:
            self._keep_less()

    def _keep_less(self) -> None:
        """Pass a long line of data on; keep enough of another one to recognise its kind."""
        line = bytes(self._line)
        if self._at_start:
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):
            self._at_start = False
            self._data_line(line)
            self._line[:] = _PASSES
        else:
            self._line_lost = True
            del self._line[_NAME:]

    def _end_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        self._line_lost = False
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line == _PASSES:
            return
        if line.startswith(b"data"):
            self._data_line(line)
        elif line.startswith(b"event"):
            self._event_line(line)
        elif not line:
            self._end_event()

    def _event_line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"event":
            self._is_error = value.removeprefix(b" ") == b"error"

    def _data_line(self, line: bytes) -> None:
        name, _, data = line.partition(b":")
        if name != b"data":
            return  # "database: …" is another field
        data = data.removeprefix(b" ")
        if self._document is not None:
            self._feed(b"\n" + data)
            return
        self._data.append(data)
        if len(data) > MAX_LINE - _NAME or len(self._data) > _MOST_LINES:
            self._document = Document(self.found)
            self._feed(b"\n".join(self._data))
            self._data.clear()

    def _feed(self, data: bytes) -> None:
        if self._document is not None:
            try:
                self._document.feed(data)
            except UnreadableBody:
                self._document.broken = True

    def _end_event(self) -> None:
        document, data = self._document, b"\n".join(self._data)
        is_error, self._is_error = self._is_error, False
        if document is None and not data:
            return
        if is_error:
            self.found.take({}, error=True)
        self._document = None
        self._data.clear()
        if data == b"[DONE]":
            self._done = True
            return
        if document is None:
            if not self.found.may_have(data):
                self.found.skip()  # most chunks are never parsed
                return
            document = Document(self.found)
            document.feed(data)
        try:
            document.end()
        except UnreadableBody:
            self.found.skip()
