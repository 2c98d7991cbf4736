"""Finds values in a JSON document of any size while it passes, in bounded memory.

It checks nesting, strings and the values on the way to a path. Of the rest, it reads only brackets
and strings: an array of numbers, or a small object, is one step.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from sidecar.bodies.coding import UnreadableBody
from sidecar.bodies.lax_json import parse
from sidecar.core.costs import Unreadable
from sidecar.core.json_path import LENGTH, JsonPath
from sidecar.core.readings import whole_units

MAX_DEPTH: Final = 1_024
MAX_TOKEN: Final = 1_024  # bytes of a name or number that are kept
_ERROR_PATHS: Final = (("error",), ("response", "error"), ("type",))
_END: Final = ""  # in a node: the paths that end here
_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_STRING: Final = rb'"(?>[^"\\]++|\\.)*+"'
_INSIDE: Final = 3  # levels of containers that one step skips


def _skipped(levels: int) -> bytes:
    """A pattern for what may be in an unwanted container, with containers of so many levels."""
    inside = _skipped(levels - 1) if levels else b""
    containers = rb"|\[%b\]|\{%b\}" % (inside, inside) if levels else b""
    return rb'(?>[^"\[\]{}]++|%b%b)*+' % (_STRING, containers)


_UNWANTED: Final = re.compile(_skipped(_INSIDE), re.DOTALL)
# Scalars of an array whose items have no path, with their commas.
_SCALARS: Final = re.compile(rb"(?>(?>[-+.0-9eE]++|true|false|null)[ \t\n\r]*+,[ \t\n\r]*+)++")
_PLAIN: Final = re.compile(rb'[^"\\]*')
_LITERAL: Final = re.compile(rb"[-+.0-9A-Za-z]*")
_QUOTE, _BACKSLASH, _COMMA, _COLON = b'"\\,:'
_OPEN_ARRAY, _OPEN_OBJECT = b"[{"
_CLOSERS: Final = {b"]"[0]: _OPEN_ARRAY, b"}"[0]: _OPEN_OBJECT}
# What may come next.
_VALUE, _ITEM_OR_END, _NAME, _NAME_OR_END, _COLON_NEXT, _AFTER, _DONE = range(7)
_Node = dict[str, Any]


class Scanner:
    """Scans one document. `values`: by the text of the path; `error`: as `found.is_error`.

    `items`: of an array, those that are complete.
    """

    def __init__(self, paths: Sequence[JsonPath]) -> None:
        self._root: _Node = {}
        for path in paths:
            _add(self._root, path.steps, path.text)
        for steps in _ERROR_PATHS:
            _add(self._root, steps, None)
        self.values: dict[str, int | Unreadable] = {}
        self.error = False
        self.items = 0
        self._kinds = bytearray()  # of the open containers
        self._nodes: list[_Node | None] = []  # what can be found in them
        self._indexed: list[bool] = []  # whether a path has an index into them
        self._counts: list[int] = []  # of items before the current one
        self._child: _Node | None = self._root  # what the next value can be
        self._next = _VALUE
        self._token = bytearray()
        self._in_string = self._escaped = self._in_literal = self._is_name = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises UnreadableBody."""
        at, end = 0, len(data)
        while at < end:
            if self._in_string:
                at = self._string(data, at)
            elif self._in_literal:
                at = self._literal(data, at)
            elif self._nodes and self._nodes[-1] is None:
                at = self._unwanted(data, at)
            else:
                at = self._structure(data, at)

    def finish(self) -> None:
        """Check that the document is complete. Raises UnreadableBody."""
        if self._in_literal:
            self._end_literal()
        if self._next != _DONE or self._in_string:
            raise UnreadableBody(Unreadable.NOT_JSON)

    def _keep(self, part: bytes) -> None:
        if len(self._token) <= MAX_TOKEN:
            self._token += part[: MAX_TOKEN + 1]

    def _string(self, data: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            self._keep(data[at : at + 1])
            return at + 1
        match = _PLAIN.match(data, at)
        end = match.end() if match else at
        self._keep(data[at:end])
        if end == len(data):
            return end
        if data[end] == _BACKSLASH:
            self._escaped = True
            self._keep(b"\\")
        else:
            self._in_string = False
            self._end_string()
        return end + 1

    def _end_string(self) -> None:
        nodes = self._nodes
        if nodes and nodes[-1] is None:
            return
        if not self._is_name:
            self._scalar(_text_of(self._token) if self._child is not None else "")
            return
        node = nodes[-1]
        name = _text_of(self._token)
        self._child = None if node is None or name in (_END, LENGTH) else node.get(name)
        self._next = _COLON_NEXT

    def _literal(self, data: bytes, at: int) -> int:
        match = _LITERAL.match(data, at)
        end = match.end() if match else at
        self._keep(data[at:end])
        if end < len(data):
            self._end_literal()
        return end

    def _end_literal(self) -> None:
        self._in_literal = False
        if len(self._token) > MAX_TOKEN:
            self._scalar("")
            return
        try:
            value = parse(bytes(self._token))
        except ValueError:
            raise UnreadableBody(Unreadable.NOT_JSON) from None
        self._scalar(value)

    def _unwanted(self, data: bytes, at: int) -> int:
        match = _UNWANTED.match(data, at)
        at = match.end() if match else at
        if at == len(data):
            return at
        char = data[at]
        if char == _QUOTE:
            self._begin_string(is_name=False)
        elif char in _CLOSERS:
            self._close(char)
        else:
            self._open(char, None)
        return at + 1

    def _structure(self, data: bytes, at: int) -> int:
        match = _SPACE.match(data, at)
        at = match.end() if match else at
        if at == len(data):
            return at
        char, expected = data[at], self._next
        if expected == _AFTER:
            self._after(char)
        elif expected == _COLON_NEXT and char == _COLON:
            self._next = _VALUE
        elif char in _CLOSERS and expected in (_NAME_OR_END, _ITEM_OR_END):
            self._close(char)
        elif expected in (_NAME, _NAME_OR_END) and char == _QUOTE:
            self._begin_string(is_name=True)
        elif expected in (_VALUE, _ITEM_OR_END):
            return self._value(data, at, char)
        else:
            raise UnreadableBody(Unreadable.NOT_JSON)
        return at + 1

    def _value(self, data: bytes, at: int, char: int) -> int:
        if self._kinds and self._kinds[-1] == _OPEN_ARRAY:
            scalars = None if self._indexed[-1] else _SCALARS.match(data, at)
            if scalars is not None:
                return self._skip_items(data, at, scalars.end())
            self._child = self._item(char)
        if char == _QUOTE:
            self._begin_string(is_name=False)
        elif char in (_OPEN_ARRAY, _OPEN_OBJECT):
            child = self._child
            if child is not None and _END in child:
                self._record(child, [1])
            self._open(char, child)
        elif _LITERAL.match(data, at, at + 1):
            self._token.clear()
            self._in_literal = True
            return at
        else:
            raise UnreadableBody(Unreadable.NOT_JSON)
        return at + 1

    def _skip_items(self, data: bytes, at: int, end: int) -> int:
        count = data.count(b",", at, end)
        self._counts[-1] += count
        self.items += count if len(self._kinds) == 1 else 0
        self._next = _VALUE
        return end

    def _item(self, char: int) -> _Node | None:
        """What the next item of the current array can be."""
        node = self._nodes[-1]
        found: _Node | None = None if node is None else node.get(str(self._counts[-1]))
        if len(self._kinds) == 1 and char == _OPEN_OBJECT:
            return {**self._root, **(found or {})}  # a document in a stream of them
        return found

    def _begin_string(self, *, is_name: bool) -> None:
        self._token.clear()
        self._in_string, self._is_name = True, is_name

    def _open(self, char: int, node: _Node | None) -> None:
        if len(self._kinds) == MAX_DEPTH:
            raise UnreadableBody(Unreadable.TOO_LARGE)
        self._kinds.append(char)
        self._nodes.append(node)
        self._indexed.append(node is not None and any(map(str.isdecimal, node)))
        self._counts.append(0)
        self._next = _NAME_OR_END if char == _OPEN_OBJECT else _ITEM_OR_END

    def _close(self, char: int) -> None:
        if self._kinds.pop() != _CLOSERS[char]:
            raise UnreadableBody(Unreadable.NOT_JSON)
        node, count = self._nodes.pop(), self._counts.pop()
        self._indexed.pop()
        length = None if node is None or char != b"]"[0] else node.get(LENGTH)
        if length is not None:
            self._record(length, count)
        self._end_value()

    def _after(self, char: int) -> None:
        if char == _COMMA:
            self._next = _NAME if self._kinds[-1] == _OPEN_OBJECT else _VALUE
        elif char in _CLOSERS:
            self._close(char)
        else:
            raise UnreadableBody(Unreadable.NOT_JSON)

    def _scalar(self, value: Any) -> None:
        child = self._child
        # A document that is not an object has no value at a path.
        if child is not None and child is not self._root and _END in child:
            self._record(child, value)
        self._end_value()

    def _end_value(self) -> None:
        self._child = None
        if self._counts:
            self._counts[-1] += 1
            self.items += len(self._kinds) == 1 and self._kinds[0] == _OPEN_ARRAY
        self._next = _AFTER if self._kinds else _DONE

    def _record(self, node: _Node, value: Any) -> None:
        for text, steps in node[_END]:
            if text is None:
                self.error = self.error or (value == "error" if steps == ("type",) else bool(value))
            elif value is not None:
                self.values[text] = whole_units(value)


def _add(root: _Node, steps: Sequence[str], text: str | None) -> None:
    for step in steps:
        root = root.setdefault(step, {})
    root.setdefault(_END, []).append((text, tuple(steps)))


def _text_of(token: bytearray) -> str:
    """The text of a string's bytes; "?" if it is too long: no name in a path."""
    if len(token) > MAX_TOKEN:
        return "?"
    try:
        return str(parse(b'"%b"' % bytes(token)))
    except ValueError:
        raise UnreadableBody(Unreadable.NOT_JSON) from None
