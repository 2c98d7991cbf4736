"""Reads a server-sent event stream line by line (WHATWG HTML, section 9.2.6).

The last value in the stream counts: AI APIs report usage in the last chunk, or in running totals.
"""

import re
from collections.abc import Sequence
from typing import Final

import orjson

from sidecar.core.costs import Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading, whole_units

MAX_DATA: Final = 1 << 20  # bytes of one line, and of one event's data
_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = re.compile(rb"\n{3,}")
_NAME: Final = 8  # bytes: a byte order mark and "data:"
_Wanted = tuple[str, JsonPath, bytes | None]


class EventStream:
    """Reads the values in each event's data. Keeps one event in memory, never the stream.

    `ended`: the stream has sent `[DONE]`, so nothing is missing if it breaks off.
    """

    def __init__(self, paths: Sequence[tuple[str, JsonPath]]) -> None:
        self._wanted = [_wanted(meter, path) for meter, path in paths]
        self._values: dict[str, int | Unreadable] = {}
        self._line = bytearray()  # the current line
        self._line_lost = False
        self._data: list[bytes] = []  # of the current event
        self._data_size = 0
        self._data_lost = False
        self._at_start = True
        self._after_cr = False
        self.ended = False

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
                self._data_line(line, len(line) > MAX_DATA)
        self._keep(begun)

    def finish(self) -> Reading:
        """The values, or the reason why they are missing.

        Data without a blank line at its end counts too: browsers drop it, but the body is complete
        and the cost in it is real.
        """
        self._end_line()
        self._end_event()
        for meter, _, _ in self._wanted:
            self._values.setdefault(meter, Unreadable.MISSING)
        return Reading.of(self._values)

    def _keep(self, part: bytes) -> None:
        if self._line_lost:
            return
        if len(self._line) + len(part) > MAX_DATA:
            self._line_lost = True
            part = part[:_NAME]
            del self._line[_NAME:]  # enough to recognise the kind of line
        self._line += part

    def _end_line(self) -> None:
        line, lost = bytes(self._line), self._line_lost
        self._line.clear()
        self._line_lost = False
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line.startswith(b"data"):
            self._data_line(line, lost)
        elif not line:
            self._end_event()

    def _data_line(self, line: bytes, lost: bool) -> None:
        name, _, data = line.partition(b":")
        if name != b"data":
            return  # "database: …" is another field
        self._data_size += len(data) + 1
        if lost or self._data_size > MAX_DATA:
            self._data_lost = True
            self._data.clear()
        elif not self._data_lost:
            self._data.append(data.removeprefix(b" "))

    def _end_event(self) -> None:
        if self._data_lost:
            # The lost data may have had the last value: only a later one makes it known again.
            for meter, _, _ in self._wanted:
                self._values[meter] = Unreadable.TOO_LARGE
        elif self._data:
            self._read(b"\n".join(self._data))
        self._data.clear()
        self._data_size = 0
        self._data_lost = False

    def _read(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.ended = True
            return
        escaped = b"\\u" in data
        candidates = [
            (meter, path)
            for meter, path, name in self._wanted
            if name is None or escaped or name in data
        ]
        if not candidates:
            return  # most chunks are never parsed
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        for meter, path in candidates:
            value = path.find(document)
            if value is not None:
                self._values[meter] = whole_units(value)


def _wanted(meter: str, path: JsonPath) -> _Wanted:
    """A meter, its path, and the JSON name without which data cannot have the value."""
    names = [step for step in path.steps if not step.isdecimal()]
    return meter, path, b'"%s"' % names[-1].encode() if names else None
