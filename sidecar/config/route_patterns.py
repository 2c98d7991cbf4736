"""A route's `match`: method and pattern, whether it can ever match, and whether it is reached."""

import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from sidecar.config.values import shown
from sidecar.core.model import RequestClass, Route
from sidecar.core.paths import Allowance, BadTarget, Normaliser
from sidecar.core.routing import RouteTable

# For editors; what a pattern cannot say, `wrong` does.
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
_ANYTHING: Final = "\x00"  # what stands for a wildcard: no pattern has it as a letter
_PERMISSIVE: Final = Normaliser(frozenset(Allowance))


def split_match(match: str) -> tuple[str | None, str]:
    """As in POST /v1/x: method and pattern. /a b has no method."""
    method, space, pattern = match.partition(" ")
    return (None, match) if match.startswith("/") or not space else (method, pattern)


def wrong(match: str) -> str | None:
    """Why this matches no call; what to write instead. None when it may match one."""
    if match == ASTERISK:
        return None
    method, path = split_match(match)
    if method is not None and not _METHOD.fullmatch(method):
        return f"{shown(match)} does not start with a method; write it like POST /v1/items"
    if path == "*":
        return f"{shown(match)}: only OPTIONS asks about all of a server; write {ASTERISK}, or /**"
    if not path.startswith("/"):
        return f"{shown(match)} has no path; write it like POST /v1/items or /v1/**"
    for mark, what in (("?", "query"), ("#", "fragment")):
        if mark in path:
            before = path.partition(mark)[0]
            return f"{shown(match)}: a {what} is no part of a path; write {before}"
    *most, last = path.split("/")
    for segment in most if last == "**" else (*most, last):
        complaint = _wrong_segment(segment)
        if complaint:
            return f"{shown(match)}: {complaint}"
    complaint = _unmatchable(method, path)
    return complaint and f"{shown(match)} can never match: {complaint}"


def _wrong_segment(segment: str) -> str | None:
    if "**" in segment:
        return "** stands alone at the end; write it like /v1/**"
    if ("{" in segment or "}" in segment) and not _BRACES.fullmatch(segment):
        return "{name} stands for one whole segment; write * for a part of one"
    plain = _ESCAPES.sub(lambda found: _SLASH.sub("%2F", _decoded(found[0])), segment)
    if plain != segment:
        return f"escapes are decoded before paths are compared; write {shown(plain)}"
    return None


def _decoded(escapes: str) -> str:
    """As paths are normalised: an encoded slash stays, and so does what is not UTF-8."""
    parts = (unquote_to_bytes(part) for part in _SLASH.split(escapes))
    text = "%2F".join(part.decode("utf-8", "surrogateescape") for part in parts)
    return _NOT_UTF8.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text)


def _unmatchable(method: str | None, path: str) -> str | None:
    """Asks the route table itself, with a target that this pattern was written for."""
    table = RouteTable([_route("", method, path)])
    try:
        first, *others = _PERMISSIVE.readings(_target(path))
    except BadTarget as error:
        return f"such a path is refused for {error}; write another one"
    if not table.match(method or "GET", first):
        return f"such a path is read as {first}; write that"
    for other in others:
        if not table.match(method or "GET", other):
            return f"some servers read such a path as {other}, so it is refused; write another one"
    return None


def _target(path: str) -> bytes:
    """The pattern with something in place of its wildcards, as a client would send it."""
    segments = path.removesuffix("**").split("/")
    plain = ["x" if _BRACES.fullmatch(one) else one.replace("*", "x") for one in segments]
    kept = re.split(r"(%[0-9A-F]{2})", "/".join(plain))  # what is left of escapes is meant
    return "".join(
        part if number % 2 else quote(part, safe="/") for number, part in enumerate(kept)
    ).encode()


def unreached(matches: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
    """(which, those before it that take its calls) of each that no call comes to.

    A wildcard is tried with a letter that no pattern has: whoever takes that takes anything. A
    last `**` is tried with every number of segments that could make a difference.
    """
    routes = [_route(str(number), *split_match(match)) for number, match in enumerate(matches)]
    deepest = max((route.pattern.count("/") for route in routes), default=0)
    table = RouteTable(routes)
    for number, route in enumerate(routes):
        takers = []
        for path in _generic(route, deepest):
            found = table.match(route.method or "", path)
            if found is None or found is route:
                break
            takers.append(int(found.id))
        else:
            yield number, sorted(set(takers))


def _generic(route: Route, deepest: int) -> Iterator[str]:
    if route.pattern == "*":
        yield "*"
        return
    segments = [segment for segment in route.pattern.split("/") if segment]
    tail = segments[-1:] == ["**"]
    fixed = [
        _ANYTHING if _BRACES.fullmatch(segment) else segment.replace("*", _ANYTHING)
        for segment in (segments[:-1] if tail else segments)
    ]
    for more in range(deepest + 2 if tail else 1):
        yield "/" + "/".join([*fixed, *[_ANYTHING] * more])


def _route(name: str, method: str | None, pattern: str) -> Route:
    return Route(name, pattern, method, pattern, RequestClass.STANDARD, frozenset(), ())
