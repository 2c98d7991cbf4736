"""A strict parser for HTTP/1.1 messages (RFC 9112), which checks the bytes on the wire.

It accepts none of the deviations that the RFC permits a recipient to accept. It raises `Incomplete`
if more bytes could complete the message, else `NotStrict`.
"""

import re
from dataclasses import dataclass, field
from typing import Final

Fields = list[tuple[bytes, bytes]]

_TCHAR: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_TOKEN: Final = re.compile(_TCHAR + rb"+")
# Section 3.2 takes targets from RFC 3986. Many clients send further ASCII characters, which are not
# ambiguous. A fragment is never part of a target.
_TARGET: Final = re.compile(rb"[!-\"$-~]+")
_VALUE: Final = re.compile(rb"[\t -~\x80-\xff]*")
_DIGITS: Final = re.compile(rb"[0-9]+")
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_CHUNK: Final = re.compile(
    rb"([0-9A-Fa-f]+)((?:[ \t]*;[ \t]*%b+(?:[ \t]*=[ \t]*(?:%b+|%b))?)*)"
    % (_TCHAR, _TCHAR, _QUOTED)
)
_VERSION: Final = re.compile(rb"HTTP/1\.[01]")


class Incomplete(Exception):
    """The bytes are the beginning of a message."""


class NotStrict(Exception):
    """The bytes are not an HTTP/1.1 message, with any continuation."""


@dataclass
class Message:
    """A request or response; `raw` has all its bytes."""

    start: tuple[bytes, bytes, bytes]  # method, target, version; or version, status, phrase
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    raw: bytes = b""
    chunk_lines: list[bytes] = field(default_factory=list)

    def values(self, name: str) -> list[bytes]:
        """The values of a field, in order. Names are case-insensitive."""
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]

    @property
    def method(self) -> bytes:
        return self.start[0]

    @property
    def target(self) -> bytes:
        return self.start[1]

    @property
    def status(self) -> int:
        return int(self.start[1])


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def line(self) -> bytes:
        """The bytes up to CRLF. A sender never writes a bare CR or LF (section 2.2)."""
        end = self.data.find(b"\r\n", self.at)
        found = self.data[self.at : end if end >= 0 else len(self.data)]
        whole = found if end >= 0 else found.removesuffix(b"\r")
        if b"\r" in whole or b"\n" in whole:
            raise NotStrict(f"bare CR or LF: {whole[:80]!r}")
        if end < 0:
            raise Incomplete
        self.at = end + 2
        return found

    def exactly(self, size: int) -> bytes:
        if len(self.data) - self.at < size:
            raise Incomplete
        self.at += size
        return self.data[self.at - size : self.at]


def take_request(data: bytes) -> Message:
    """Parse the request at the start of the bytes. Raises Incomplete or NotStrict."""
    cursor = _Cursor(data)
    line = cursor.line()
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise NotStrict(f"request line: {line[:80]!r}")
    method, target, version = parts
    if not _VERSION.fullmatch(version):
        raise NotStrict(f"version: {version[:40]!r}")
    _check_target(method, target)
    message = Message((method, target, version), _take_fields(cursor))
    hosts = message.values("host")
    if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
        raise NotStrict(f"{len(hosts)} Host fields")
    _take_body(cursor, message, message.values("transfer-encoding"), 0)
    message.raw = data[: cursor.at]
    return message


def take_response(data: bytes, method: bytes, *, ended: bool) -> Message:
    """Parse the response at the start of the bytes, to a request with this method.

    `ended`: the connection was closed after them, which completes a response without a length
    (RFC 9112, section 6.3, rule 8).
    """
    cursor = _Cursor(data)
    line = cursor.line()
    version, _, rest = line.partition(b" ")
    status, space, phrase = rest.partition(b" ")
    if (
        not _VERSION.fullmatch(version)
        or not re.fullmatch(rb"[1-5][0-9][0-9]", status)
        or not space
        or not _VALUE.fullmatch(phrase)
    ):
        raise NotStrict(f"status line: {line[:80]!r}")
    message = Message((version, status, phrase), _take_fields(cursor))
    codings = message.values("transfer-encoding")
    bodyless = status.startswith(b"1") or status == b"204"
    if bodyless and (codings or message.values("content-length")):
        raise NotStrict(f"a framing field on {status!r}")  # RFC 9110, 8.6; RFC 9112, 6.1
    if not (bodyless or status == b"304" or method == b"HEAD"):
        to_the_end = None if not ended else len(data) - cursor.at
        _take_body(cursor, message, codings, to_the_end)
    message.raw = data[: cursor.at]
    return message


def _check_target(method: bytes, target: bytes) -> None:
    """Check the form of the target for the method (section 3.2)."""
    absolute = re.match(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/]", target) is not None
    asterisk = target == b"*" and method == b"OPTIONS"
    authority = method == b"CONNECT" and re.fullmatch(rb"[^/]+:[0-9]+", target) is not None
    if not (target.startswith(b"/") or absolute or asterisk or authority):
        raise NotStrict(f"target form: {target[:40]!r}")


def _take_fields(cursor: _Cursor) -> Fields:
    fields: Fields = []
    while line := cursor.line():
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise NotStrict(f"field line: {line[:80]!r}")
        fields.append((name, value.strip(b" \t")))
    return fields


def _take_body(
    cursor: _Cursor, message: Message, codings: list[bytes], without: int | None
) -> None:
    """Parse the body (section 6.3). `without`: its size if not announced; None: unknown."""
    lengths = message.values("content-length")
    if codings:
        one_one = b"HTTP/1.1" in message.start
        if lengths or not one_one or [coding.lower() for coding in codings] != [b"chunked"]:
            raise NotStrict(f"framing: codings {codings!r}, lengths {lengths!r}")
        _take_chunks(cursor, message)
    elif lengths:
        if len(lengths) != 1 or not _DIGITS.fullmatch(lengths[0]) or len(lengths[0]) > 19:
            raise NotStrict(f"Content-Length: {[value[:40] for value in lengths]!r}")
        message.body = cursor.exactly(int(lengths[0]))
    elif without is None:
        raise Incomplete
    else:
        message.body = cursor.exactly(without)


def _take_chunks(cursor: _Cursor, message: Message) -> None:
    body = bytearray()
    while True:
        line = cursor.line()
        found = _CHUNK.fullmatch(line)
        if found is None or len(found[1].lstrip(b"0")) > 15:
            raise NotStrict(f"chunk line: {line[:80]!r}")
        message.chunk_lines.append(line)
        size = int(found[1], 16)
        if size == 0:
            break
        body += cursor.exactly(size)
        end = cursor.data[cursor.at : cursor.at + 2]
        if not b"\r\n".startswith(end):
            raise NotStrict(f"after a chunk: {end!r}")
        cursor.exactly(2)
    message.trailers = _take_fields(cursor)
    message.body = bytes(body)
