"""How a request target is read as a path.

The path is normalised for the *decision* only; the upstream gets the target's own bytes. So a
target that two correct servers could read as two different paths is refused (`BadTarget`). If
ordinary clients write such targets, the target is read in each way, and `RouteTable.find` requires
that all readings are on one route. Otherwise it would be priced as one route and served as another.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

_PLAIN = rb"A-Za-z0-9_~!$&'()*+,=:@\-"
# No escapes, parameters, empty or dotted segments: nothing to normalise but a trailing slash.
# Not a possessive group: up to Python 3.11.4, one keeps the text of its last, failed repetition.
CLEAN: Final = re.compile(
    rb"(?=/)((?:/[" + _PLAIN + rb"][." + _PLAIN + rb"]*+(?<!\.))*)/?(?:\?[^\x00-\x20\x7f#]*+)?"
)
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#@\\]+", re.IGNORECASE)
_CONTROL: Final = re.compile(rb"[\x00-\x20\x7f]")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ENCODED_CONTROL: Final = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[Ff])")
_ENCODED_SLASH: Final = re.compile(rb"%2[Ff]")
_BACKSLASH: Final = re.compile(rb"\\|%5[Cc]")
# RFC 3629, section 3: valid UTF-8 never has these; careless decoders see "/" or "." in them.
_OVERLONG: Final = re.compile(
    rb"[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]|\xf8[\x80-\x87]|\xfc[\x80-\x83]"
)
_DECODED_CONTROL: Final = re.compile("[\x7f-\x9f]")
_WIDE_ESCAPE: Final = re.compile("%u[0-9A-Fa-f]{4}")
# A space that was encoded twice is a common accident, and never changes what a path means.
_ENCODED_TWICE: Final = re.compile(r"%(?!20)[0-9A-Fa-f]{2}")
_NOT_ASCII: Final = re.compile("[^\x00-\x7f]")
_NOT_UTF8: Final = re.compile(r"[\udc80-\udcff]")  # bytes, as "surrogateescape" keeps them
# Segments that every server reads in the same way, and the empty one.
_UNAMBIGUOUS: Final = re.compile(r"""[\w~!$&'()*+,=:@|<>\[\]{}^`"-]*""", re.ASCII)
_SLASH_MARK: Final = "\x00"  # replaces an encoded slash: targets with a NUL are refused before
_SEPARATORS: Final = re.compile(r"[/\\\x00]")
_SPLITTING: Final = re.compile(r"[/\\\x00?]")  # zero or several lenient segments
_DOTS: Final = re.compile(r"\.{1,2} *(?:[;?#].*)?", re.DOTALL)
_CUT: Final = re.compile(r"[?#]")
_ROUNDS: Final = 4  # of decoding a segment; deeper nesting is refused


class BadTarget(ValueError):
    """A request target that can be read in more than one way. `str()` is the reason."""


class Allowance(StrEnum):
    """A form that is refused by default. Allow it if the API reads it as described here."""

    ENCODED_SLASH = "encoded-slash"  # %2F is a character of its segment, never a separator
    BACKSLASH = "backslash"  # so is \ or %5C
    DOUBLE_ENCODING = "double-encoding"  # %252e is the text %2e: escapes are decoded once
    NOT_UTF8 = "not-utf8"  # escapes of another charset; overlong UTF-8 stays refused
    SEMICOLON = "semicolon"  # ; is a character of its segment, and starts no parameter


class Normaliser:
    """Reads targets as paths; one for the life of a process. Allows nothing by default."""

    def __init__(self, allow: frozenset[Allowance] = frozenset()) -> None:
        self._encoded_slash = Allowance.ENCODED_SLASH in allow
        self._backslash = Allowance.BACKSLASH in allow
        self._double_encoding = Allowance.DOUBLE_ENCODING in allow
        self._not_utf8 = Allowance.NOT_UTF8 in allow
        self._semicolon = Allowance.SEMICOLON in allow

    def __call__(self, target: bytes) -> str:
        """Return the path for the decision; "*" for the asterisk form. Raises BadTarget.

        `target` is in origin, absolute or asterisk form (RFC 9112, section 3.2). Percent escapes
        are decoded once, dot segments resolved (RFC 3986, section 5.2.4), repeated slashes merged,
        and a trailing slash dropped; case does not change. An allowed encoded slash stays `%2F`,
        and a byte that is not UTF-8 stays an escape. Linear in the size of `target`.
        """
        path = self.readings(target)[0]
        if not self._encoded_slash and _ENCODED_SLASH.search(target.partition(b"?")[0]):
            raise BadTarget("an encoded slash")  # it has no single reading
        return path

    def readings(self, target: bytes) -> tuple[str, ...]:
        """Return that path, and other paths that a server could read. Raises BadTarget."""
        clean = CLEAN.fullmatch(target)
        if clean is not None:
            return (clean[1].decode("ascii") or "/",)
        if target == b"*":
            return ("*",)
        raw = _raw_path(target)
        return self._resolved(raw, self._decoded(raw))

    def _decoded(self, path: bytes) -> str:
        if not path.isascii():
            raise BadTarget("bytes outside ASCII that are not percent-encoded")
        if _BACKSLASH.search(path) and not self._backslash:
            raise BadTarget("a backslash")
        if _BROKEN_ESCAPE.search(path):
            raise BadTarget("a percent sign that does not start an escape")
        if _ENCODED_CONTROL.search(path):
            raise BadTarget("an encoded control character")
        text = self._text(unquote_to_bytes(_ENCODED_SLASH.sub(_SLASH_MARK.encode(), path)))
        if _DECODED_CONTROL.search(text):
            raise BadTarget("an encoded control character")
        if _WIDE_ESCAPE.search(text) or (_ENCODED_TWICE.search(text) and not self._double_encoding):
            raise BadTarget("a character that is percent-encoded twice")
        return text

    def _text(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            if _OVERLONG.search(data) or not self._not_utf8:
                raise BadTarget("percent escapes that are not UTF-8") from None
            return data.decode("utf-8", "surrogateescape")

    def _resolved(self, raw: bytes, text: str) -> tuple[str, ...]:
        """Return the readings of a decoded path.

        The first is for the decision, the second is that of a lenient server. If the path has "..",
        the third is that of a server which does not resolve dot segments.
        """
        kept: list[tuple[str, str]] = []
        written: list[str] = []
        splits = False  # whether a lenient server reads the last one as zero or several segments
        for escaped, segment in zip(raw[1:].split(b"/"), text[1:].split("/"), strict=True):
            if segment not in (".", ".."):
                lenient = self._lenient(segment)
                splits = lenient == "" or _SPLITTING.search(lenient) is not None
                if segment:
                    kept.append((segment, lenient))
                    written.append(segment)
            elif len(escaped) > len(segment):
                raise BadTarget("a dot segment that is percent-encoded")
            elif segment == "..":
                # "/a//.." is "/a/" by RFC 3986 and "/" for servers that merge slashes first.
                if not kept or splits:
                    raise BadTarget("a '..' above the root, or after what may not be one segment")
                kept.pop()
                written.append(segment)
        path = "/".join(segment for segment, _ in kept)
        lenient_path = "/".join(lenient for _, lenient in kept)
        readings = [_joined([path] if path else []), _merged(lenient_path)]
        if len(written) > len(kept):
            readings.append(_joined(written))
        if _SLASH_MARK in text and not self._encoded_slash:  # also as a separator
            readings.append(_merged(self._split(path)))
            readings.append(_merged("/".join(map(self._bare, self._split(path).split("/")))))
            readings.append(_merged(self._split(lenient_path)))
            readings.append(_merged(self._split("/".join(written))))
        return tuple(dict.fromkeys(readings))

    def _split(self, path: str) -> str:
        return path.replace(_SLASH_MARK, "/")

    def _lenient(self, segment: str) -> str:
        """Return a segment as a lenient server reads it.

        Without what some servers drop: parameters (RFC 3986, section 3.3), and spaces and dots at
        the end (Windows). Compatibility characters are folded, like a full-width solidus, and a
        backslash is a slash. Raises BadTarget if the segment hides a dot segment.
        """
        if _UNAMBIGUOUS.fullmatch(segment):
            return segment
        folded = _folded(segment)
        if folded.count("%") > segment.count("%") and _ENCODED_TWICE.search(folded):
            raise BadTarget("an escape in disguise")
        plain = _decoded_fully(folded)
        for piece in _SEPARATORS.split(plain):
            if _DOTS.fullmatch(piece):
                raise BadTarget("a dot segment in disguise")
        lenient = folded if self._double_encoding else plain
        if not self._backslash:
            lenient = lenient.replace("\\", "/")
        lenient, *cut = _CUT.split(lenient, maxsplit=1)
        return "/".join(self._bare(piece) for piece in lenient.split("/")) + ("?" if cut else "")

    def _bare(self, piece: str) -> str:
        name = piece if self._semicolon else piece.partition(";")[0]
        return name.rstrip(" .")


def _raw_path(target: bytes) -> bytes:
    if _CONTROL.search(target):
        raise BadTarget("a space or control character")
    if b"#" in target:
        raise BadTarget("a fragment")
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            raise BadTarget("neither a path nor an absolute URL")
        target = target[absolute.end() :]
    path = target.partition(b"?")[0] or b"/"
    if not path.startswith(b"/"):
        raise BadTarget("an authority that does not end in a slash")
    return path


def _folded(text: str) -> str:
    """Return the text with compatibility forms replaced (Unicode NFKC), one character at a time.

    On a whole text, NFKC is quadratic in runs of combining marks.
    """
    if text.isascii():
        return text
    return _NOT_ASCII.sub(lambda match: normalize("NFKC", match[0]), text)


def _decoded_fully(text: str) -> str:
    """Return the text without escapes, also nested ones. Raises BadTarget."""
    for _ in range(_ROUNDS):
        if "%" not in text:
            return text
        data = text.encode("utf-8", "surrogateescape")
        if _ENCODED_CONTROL.search(data) or _WIDE_ESCAPE.search(text):
            raise BadTarget("an encoded control character")
        data = unquote_to_bytes(data)
        if _OVERLONG.search(data):
            raise BadTarget("percent escapes that are not UTF-8")
        decoded = _folded(data.decode("utf-8", "surrogateescape"))
        if decoded == text:
            return text
        text = decoded
    raise BadTarget("a character that is percent-encoded over and over")


def _joined(segments: Iterable[str]) -> str:
    path = "/" + "/".join(segments)
    path = path.replace(_SLASH_MARK, "%2F")
    return _NOT_UTF8.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", path)


def _merged(path: str) -> str:
    """Return a path without empty segments, and without what follows a decoded "?" or "#"."""
    path = _CUT.split(path, maxsplit=1)[0]
    return _joined(segment for segment in path.split("/") if segment)


normalise: Final = Normaliser()
