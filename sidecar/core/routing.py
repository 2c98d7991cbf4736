"""Which route a request is on, decided on a normalised path.

The path is normalised for the *decision* only; upstream gets the target's own bytes. So a
target that two honest servers could read as two different paths is refused (`BadTarget`):
otherwise it would be priced as one route and served as another.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from sidecar.core.model import Route

_PLAIN = rb"A-Za-z0-9_~!$&'()*+,=:@;\-"
# No escapes, empty or dotted segments: nothing to normalise but a trailing slash and the query.
_CLEAN: Final = re.compile(
    rb"(?=/)((?:/[" + _PLAIN + rb"][." + _PLAIN + rb"]*)*)/?(?:\?[^\x00-\x20\x7f#]*)?"
)
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#\\]+", re.IGNORECASE)
_CONTROL: Final = re.compile(rb"[\x00-\x20\x7f]")
_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_STRUCTURAL_ESCAPE: Final = re.compile(rb"%(?:2f|5c)", re.IGNORECASE)
_DECODED_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
# What a second decoding would turn into a printable ASCII character or a control.
_ENCODED_TWICE: Final = re.compile(r"%(?:[013-7][0-9A-Fa-f]|2[1-9A-Fa-f])")


class BadTarget(ValueError):
    """A request target that cannot be read in one way only. `str()` says why."""


def normalise(target: bytes) -> str:
    """The path on which policy is decided; "*" for the asterisk form.

    `target` is in origin, absolute or asterisk form (RFC 9112, section 3.2). Percent escapes
    are decoded once, dot segments resolved (RFC 3986, section 5.2.4), repeated slashes merged,
    a trailing slash dropped; case is kept. Raises BadTarget.
    """
    clean = _CLEAN.fullmatch(target)
    if clean is not None:
        return clean[1].decode("ascii") or "/"
    if target == b"*":
        return "*"
    return "/" + "/".join(_segments(_decoded(_raw_path(target))))


def _raw_path(target: bytes) -> bytes:
    if _CONTROL.search(target):
        raise BadTarget("a space or control character")
    if b"#" in target:
        raise BadTarget("a fragment")
    path = target.partition(b"?")[0]
    if not path.startswith(b"/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            raise BadTarget("neither a path nor an absolute URL")
        path = target[absolute.end() :].partition(b"?")[0] or b"/"
    return path


def _decoded(path: bytes) -> str:
    if not path.isascii():
        raise BadTarget("bytes outside ASCII that are not percent-encoded")
    if b"\\" in path or _STRUCTURAL_ESCAPE.search(path):
        raise BadTarget("a backslash, or an encoded slash or backslash")
    if _BROKEN_ESCAPE.search(path):
        raise BadTarget("a percent sign that starts no escape")
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise BadTarget("percent escapes that are not UTF-8") from None
    if _DECODED_CONTROL.search(text):
        raise BadTarget("an encoded control character")
    if _ENCODED_TWICE.search(text):
        raise BadTarget("a character that is percent-encoded twice")
    return text


def _segments(path: str) -> list[str]:
    kept: list[str] = []
    before = ""
    for segment in path[1:].split("/"):
        if segment == "..":
            # "/a//.." is "/a/" by RFC 3986 and "/" for servers that merge slashes first.
            if not kept or before == "empty":
                raise BadTarget("a '..' that climbs above the root or over an empty segment")
            kept.pop()
        elif segment.partition(";")[0] in (".", "..") and segment != ".":
            raise BadTarget("a dot segment with parameters")
        elif segment not in ("", "."):
            kept.append(segment)
        if segment != ".":
            before = "empty" if segment == "" else ""
    return kept


class RouteTable:
    """Routes in the order of the plan file; the first that matches wins.

    In a pattern `*` stands for any characters within a segment, `{name}` for one whole
    segment, and a last `**` for any number of segments, none included. Raises ValueError for
    a pattern that is none of these. Matching is linear in the length of the path.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        methods = {route.method for route in routes if route.method is not None}
        if "GET" in methods:
            methods.add("HEAD")
        self._by_method = {method: _compile(_open_to(routes, method)) for method in methods}
        self._any_method = _compile(_open_to(routes, None))

    def match(self, method: str, path: str) -> Route | None:
        """The route of a request; `path` as `normalise` returns it. HEAD is on GET's routes."""
        pattern, routes = self._by_method.get(method, self._any_method)
        found = pattern.fullmatch(path)
        if found is None or (path == "*" and method != "OPTIONS"):
            return None
        return routes[found.lastindex or 0]


_Compiled = tuple[re.Pattern[str], tuple[Route | None, ...]]


def _open_to(routes: Iterable[Route], method: str | None) -> list[Route]:
    methods = (None, "GET", "HEAD") if method == "HEAD" else (None, method)
    return [route for route in routes if route.method in methods]


def _compile(routes: Sequence[Route]) -> _Compiled:
    """One alternation; the empty group that closes each branch tells which one matched."""
    branches = "|".join(f"{_regex(route.pattern)}()" for route in routes)
    return re.compile(branches or "(?!)", re.DOTALL), (None, *routes)


def _regex(pattern: str) -> str:
    if pattern == "*":
        return r"\*"
    if not pattern.startswith("/"):
        raise ValueError(f'"{pattern}" does not start with /')
    segments = [segment for segment in pattern.split("/") if segment]
    if not segments:
        return "/"
    tail = ""
    if segments[-1] == "**":
        segments.pop()
        tail = "(?:/.*)?"
    return "".join("/" + _segment_regex(segment, pattern) for segment in segments) + tail


def _segment_regex(segment: str, pattern: str) -> str:
    if segment == "*" or re.fullmatch(r"\{\w+\}", segment):
        return "[^/]+"
    if "**" in segment or "{" in segment or "}" in segment:
        raise ValueError(f'"{pattern}": ** is for the end, {{name}} for one whole segment')
    first, *rest = (re.escape(part) for part in segment.split("*"))
    if not rest:
        return first
    # The leftmost place for a middle part is always the best one, so it is never reconsidered
    # (atomic group): several stars in a segment stay linear.
    middle = "".join(f"(?>[^/]*?{part})" for part in rest[:-1] if part)
    return f"{first}{middle}[^/]*{rest[-1]}"
