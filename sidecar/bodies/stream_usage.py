"""Asks APIs in the style of OpenAI for the usage of a stream, and hides it from the client.

The request gets `stream_options.include_usage`. The API then adds `usage` to each chunk: null, and
the numbers in a last chunk without choices. `UsageFilter` removes both. All other bytes stay.
"""

import re
from json.decoder import JSONDecoder, scanstring  # type: ignore[attr-defined]
from json.scanner import make_scanner
from typing import Any, Final, NamedTuple

MAX_EVENT: Final = 1 << 16  # bytes of an event that is held until it is complete
MAX_MEMBERS: Final = 1_000  # of an object: reading many of them would delay other requests
_ASKED: Final = '"include_usage":true'
# vLLM: without include_usage, the other option has no effect; with it, each chunk has the usage.
_ANSWERS: Final = {"include_usage": "true", "continuous_usage_stats": "false"}
_TRUE: Final = frozenset({"true", "t", "yes", "y", "on", "1", "1.0"})  # for lax readers of JSON
_BOM: Final = b"\xef\xbb\xbf"
_EOL: Final = re.compile(rb"\r\n|\n|\r(?!\n)")
_EVENT_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n))")
_OPEN: Final = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
_COLON: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT: Final = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")
_PLAIN_NAME: Final = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
# Lax, so that what it takes is all that an API may take. A number may have any size.
_json: Final = JSONDecoder(parse_int=str, parse_float=str)
_value_at: Final = make_scanner(_json)  # type: ignore[arg-type]
# The last or a middle member of an object, with the comma before it.
_NULL_USAGE: Final = re.compile(r',[ \t\n\r]*"usage"[ \t\n\r]*:[ \t\n\r]*null')


class _Member(NamedTuple):
    """A member of an object in JSON text, and where it begins, and where its value is."""

    name: str
    at: int
    value_at: int
    end: int
    value: Any


def with_usage_asked(body: bytes) -> bytes | None:
    """Return the body of a request with the question for the usage of its stream.

    None if the request asks already, does not ask for a stream, or is not a JSON object of at most
    MAX_MEMBERS.
    """
    bom = _BOM if body.startswith(_BOM) else b""
    try:
        text = body.removeprefix(_BOM).decode()
        members = _document(text)
    except (ValueError, RecursionError):
        return None
    values = {member.name: member.value for member in members}
    if not _is_true(values.get("stream")):
        return None
    options = values.get("stream_options")
    if isinstance(options, dict) and _is_true(options.get("include_usage")):
        return None
    try:
        return bom + _asked(text, members).encode()
    except ValueError:  # the options have too many members
        return None


def _is_true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() in _TRUE)


def _asked(text: str, members: list[_Member]) -> str:
    found = [member for member in members if member.name == "stream_options"]
    if not found:
        at = text.index("{") + 1
        return f'{text[:at]}"stream_options":{{{_ASKED}}},{text[at:]}'
    parts: list[str] = []  # joined once: a name may occur thousands of times
    at = 0
    for member in found:  # a name that occurs twice has no single reading
        parts.append(text[at : member.value_at])
        at = member.end
        if member.value is None:
            parts.append(f"{{{_ASKED}}}")
        elif isinstance(member.value, dict):
            parts.append(_asked_in(text[member.value_at : at]))
        else:
            parts.append(text[member.value_at : at])
    return "".join((*parts, text[at:]))


def _asked_in(text: str) -> str:
    """Return the text of an object with the question in it."""
    members, _ = _members(text, 0)
    parts: list[str] = []
    at = 0
    for member in members:
        value = _ANSWERS.get(member.name)
        if value is not None:
            parts += (text[at : member.value_at], value)
            at = member.end
    parts.append(text[at:])
    if any(member.name == "include_usage" for member in members):
        return "".join(parts)
    comma = "," if members else ""
    return f"{{{_ASKED}{comma}{''.join(parts)[1:]}"


def _document(text: str) -> list[_Member]:
    """Return the members of a whole JSON object. Raises ValueError if the text is not one."""
    members, end = _members(text, 0)
    if text[end:].strip(" \t\n\r"):
        raise ValueError
    return members


def _members(text: str, start: int) -> tuple[list[_Member], int]:
    """Return the members of the object at `start`, after white space, and where it ends.

    Raises ValueError if there is not one, or if it has more than MAX_MEMBERS, RecursionError if it
    is nested too deep.
    """
    found = _OPEN.match(text, start)
    if found is None:
        raise ValueError
    members: list[_Member] = []
    at = found.end()
    if text.startswith("}", at):
        return members, at + 1
    while True:
        name, value_at = _name(text, at)
        try:
            value, end = _value_at(text, value_at)
        except StopIteration:
            raise ValueError from None
        members.append(_Member(name, at, value_at, end, value))
        if len(members) > MAX_MEMBERS:
            raise ValueError
        found = _NEXT.match(text, end)
        if found is None:
            raise ValueError
        at = found.end()
        if found[1] == "}":
            return members, found.end(1)


def _name(text: str, at: int) -> tuple[str, int]:
    """Return the name of the member there, and where its value is."""
    plain = _PLAIN_NAME.match(text, at)
    if plain is not None:
        return plain[1], plain.end()
    if not text.startswith('"', at):
        raise ValueError
    name, end = scanstring(text, at + 1, True)
    colon = _COLON.match(text, end)
    if colon is None:
        raise ValueError
    return name, colon.end()


class UsageFilter:
    """Removes from an event stream what it has only because its usage was asked for.

    It holds a part of one event. Comments, and events above MAX_EVENT bytes, pass at once. However
    the stream is cut into pieces, the result is the same.
    """

    def __init__(self) -> None:
        self._held = b""  # the beginning of an event
        self._searched = 0  # bytes of it in which the event does not end
        self._passing = b""  # the last bytes of a long event that has not ended
        self._in_comment = False
        self._after_cr = False  # that ended a line; a line feed belongs to it
        self._cr_hidden = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, and return those that the client gets now."""
        out: list[bytes] = []
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
                if not self._cr_hidden:
                    out.append(b"\n")
        while data:
            if self._in_comment:
                data = self._comment(data, out)
            elif self._passing:
                data = self._pass(data, out)
            else:
                data = self._event(data, out)
        return b"".join(out)

    def finish(self) -> bytes:
        """Return what is held of an event without an end."""
        held, self._held = self._held, b""
        return _without_usage(held)

    def _event(self, data: bytes, out: list[bytes]) -> bytes:
        """Hold the bytes of an event, or let it pass. Returns the bytes after it."""
        held = self._held + data
        if not self._held and held[:1] in b":\r\n":
            if held[:1] != b":":
                return self._line_end(held, out)
            self._in_comment = True
            return held
        end = _EVENT_END.search(held, max(0, self._searched - 2))
        size = end.end() if end else len(held)
        if (end.start() if end else size - 2) > MAX_EVENT:  # an unfinished one may end a line
            self._held, self._searched = b"", 0
            self._passing = b"\0"
            return self._pass(held, out)
        if end is None:
            self._held, self._searched = held, size
            return b""
        self._held, self._searched = b"", 0
        passed = _without_usage(held[:size])
        out.append(passed)
        self._note_cr(held, size, hidden=not passed)
        return held[size:]

    def _line_end(self, data: bytes, out: list[bytes]) -> bytes:
        """Pass the end of a line at the beginning of `data`. Returns the bytes after it."""
        size = 2 if data.startswith(b"\r\n") else 1
        out.append(data[:size])
        self._note_cr(data, size, hidden=False)
        return data[size:]

    def _comment(self, data: bytes, out: list[bytes]) -> bytes:
        end = _EOL.search(data)
        if end is None:
            out.append(data)
            return b""
        self._in_comment = False
        out.append(data[: end.start()])
        return self._line_end(data[end.start() :], out)

    def _pass(self, data: bytes, out: list[bytes]) -> bytes:
        """Pass bytes up to the end of the event. Returns the bytes after it."""
        before = len(self._passing)
        window = self._passing + data
        end = _EVENT_END.search(window)
        if end is None:
            self._passing = window[-2:]
            out.append(data)
            return b""
        self._passing = b""
        size = end.end() - before
        out.append(data[:size])
        self._note_cr(data, size, hidden=False)
        return data[size:]

    def _note_cr(self, data: bytes, size: int, *, hidden: bool) -> None:
        self._after_cr = size == len(data) and data.endswith(b"\r")
        self._cr_hidden = hidden


def _without_usage(event: bytes) -> bytes:
    """Return the event as a client that does not ask for the usage gets it; b"" for none."""
    if b'"usage"' not in event:
        return event
    lines = [line for line in _EOL.split(event.removeprefix(_BOM)) if line.startswith(b"data:")]
    data = b"\n".join([line[5:] for line in lines])
    try:
        text = data.decode()
        document = _json.decode(text)
        if not isinstance(document, dict):
            return event
        usage = document.get("usage", "")
        if isinstance(usage, dict) and document.get("choices") == []:
            return b""
        if usage is not None or len(lines) != 1:
            return event
        return event.replace(data, _without_null(text).encode())
    except (ValueError, RecursionError):
        return event


def _without_null(text: str) -> str:
    """Return the text of an object without its member `usage`, which is null."""
    found = _NULL_USAGE.search(text)
    if found and text.count('"usage"') == 1 and "\\u" not in text:  # it can only be that member
        return text[: found.start()].rstrip(" \t\n\r") + text[found.end() :]
    members = _document(text)
    for at in reversed([at for at, member in enumerate(members) if member.name == "usage"]):
        if at:
            text = text[: members[at - 1].end] + text[members[at].end :]
        else:
            following = members[1].at if len(members) > 1 else members[0].end
            text = text[: members[0].at] + text[following:]
    return text
