"""The `match` of a route: its method and pattern, and whether a request can reach it."""

import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from sidecar.config.values import quoted
from sidecar.core.model import RequestClass, Route
from sidecar.core.paths import Allowance, BadTarget, Normaliser
from sidecar.core.routing import RouteTable

# For editors; `error` checks what a regular expression cannot.
PATTERN: Final = (
    r"^(OPTIONS \*|([A-Z][A-Z-]{0,31} )?(?!.*(\*\*.|[^/]\*\*))(?!.*/\.{1,2}(/|$))"
    r"(/(\{\w+\}|[^/{}?#]*))+)$"
)
ASTERISK: Final = "OPTIONS *"  # RFC 9112, section 3.2.4: about the server, not about a path
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")
_ESCAPES: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_SLASH: Final = re.compile("%2F", re.IGNORECASE)
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")
_BRACES: Final = re.compile(r"\{\w+\}")
_ANYTHING: Final = "\x00"  # a character that no pattern contains, in place of a wildcard
_PERMISSIVE: Final = Normaliser(frozenset(Allowance))


def split_match(match: str) -> tuple[str | None, str]:
    """Split `POST /v1/x` into method and pattern. `/a b` has no method."""
    method, space, pattern = match.partition(" ")
    return (None, match) if match.startswith("/") or not space else (method, pattern)


def error(match: str) -> str | None:
    """Why no request can match; what to write instead. None if a request can."""
    if match == ASTERISK:
        return None
    method, path = split_match(match)
    if method is not None and not _METHOD.fullmatch(method):
        return f"{quoted(match)} does not start with a method; write it like POST /v1/items"
    if path == "*":
        return f"{quoted(match)}: only OPTIONS can have the path *; write {ASTERISK}, or /**"
    if not path.startswith("/"):
        return f"{quoted(match)} has no path; write it like POST /v1/items or /v1/**"
    for mark, part in (("?", "query"), ("#", "fragment")):
        if mark in path:
            before = path.partition(mark)[0]
            return f"{quoted(match)}: the {part} is not part of a path; write {before}"
    *most, last = path.split("/")
    for segment in most if last == "**" else (*most, last):
        reason = _segment_error(segment)
        if reason:
            return f"{quoted(match)}: {reason}"
    reason = _path_error(method, path)
    return reason and f"{quoted(match)} can never match: {reason}"


def _segment_error(segment: str) -> str | None:
    if "**" in segment:
        return "** must be the whole last segment; write it like /v1/**"
    if ("{" in segment or "}" in segment) and not _BRACES.fullmatch(segment):
        return "{name} must be a whole segment; write * for a part of a segment"
    plain = _ESCAPES.sub(lambda escapes: _SLASH.sub("%2F", _decoded(escapes[0])), segment)
    if plain != segment:
        return f"the sidecar decodes escapes before it compares paths; write {quoted(plain)}"
    return None


def _decoded(escapes: str) -> str:
    """Escapes decoded as paths are: an encoded slash and bytes that are not UTF-8 stay."""
    parts = (unquote_to_bytes(part) for part in _SLASH.split(escapes))
    text = "%2F".join(part.decode("utf-8", "surrogateescape") for part in parts)
    return _NOT_UTF8.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", text)


def _path_error(method: str | None, path: str) -> str | None:
    """Why the route table finds no match for a target that fits this pattern."""
    table = RouteTable([_route("", method, path)])
    try:
        first, *others = _PERMISSIVE.readings(_target(path))
    except BadTarget as bad:
        return f"the sidecar refuses such a path for {bad}; write another one"
    if not table.match(method or "GET", first):
        return f"the sidecar reads such a path as {first}; write {first}"
    for other in others:
        if not table.match(method or "GET", other):
            return (
                f"the sidecar refuses it because some servers read it as {other}; write another one"
            )
    return None


def _target(path: str) -> bytes:
    """The pattern as a client would send it, with text in place of the wildcards."""
    segments = path.removesuffix("**").split("/")
    plain = ["x" if _BRACES.fullmatch(part) else part.replace("*", "x") for part in segments]
    parts = re.split(r"(%[0-9A-F]{2})", "/".join(plain))  # remaining escapes are sent unchanged
    return "".join(
        part if number % 2 else quote(part, safe="/") for number, part in enumerate(parts)
    ).encode()


def unreached(matches: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
    """Each route that no request reaches: (its index, the earlier ones that match instead).

    For a wildcard, the check uses a character that no pattern contains: a pattern that matches it
    matches anything. For a final `**`, it tries every number of segments that can matter.
    """
    routes = [_route(str(number), *split_match(match)) for number, match in enumerate(matches)]
    deepest = max((route.pattern.count("/") for route in routes), default=0)
    table = RouteTable(routes)
    for number, route in enumerate(routes):
        covering = set()
        for path in _generic(route, deepest):
            first = table.match(route.method or "", path)
            if first is None or first is route:
                break
            covering.add(int(first.id))
        else:
            yield number, sorted(covering)


def _generic(route: Route, deepest: int) -> Iterator[str]:
    """Paths that match a pattern, and with it everything that it matches."""
    if route.pattern == "*":
        yield "*"
        return
    segments = [segment for segment in route.pattern.split("/") if segment]
    tail = segments[-1:] == ["**"]
    fixed = [
        _ANYTHING if _BRACES.fullmatch(segment) else segment.replace("*", _ANYTHING)
        for segment in (segments[:-1] if tail else segments)
    ]
    for extra in range(deepest + 2 if tail else 1):
        yield "/" + "/".join([*fixed, *[_ANYTHING] * extra])


def _route(name: str, method: str | None, pattern: str) -> Route:
    return Route(name, pattern, method, pattern, RequestClass.STANDARD, frozenset(), ())
