"""The route table: finds the route of a request, on a normalised path."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from sidecar.core.model import Route
from sidecar.core.paths import CLEAN, BadTarget, Normaliser, normalise

MOST_KNOWN: Final = 2_048
LONGEST_KNOWN: Final = 256  # bytes of a target


class RouteTable:
    """Routes in the order of the plan file; the first that matches wins.

    In a pattern, `*` matches any characters within a segment, `{name}` one whole segment, and a
    last `**` any number of segments, also zero. Matching is linear in the length of the path.
    `ignore_case` is for APIs to which /V1/Items and /v1/items are the same. Raises ValueError for
    an invalid pattern.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        paths: Normaliser = normalise,
        *,
        ignore_case: bool = False,
    ) -> None:
        methods = {route.method for route in routes if route.method is not None}
        if "GET" in methods:
            methods.add("HEAD")
        flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
        self._paths = paths
        self._by_method = {method: _compile(_open_to(routes, method), flags) for method in methods}
        self._any_method = _compile(_open_to(routes, None), flags)
        self._known: dict[tuple[str, bytes], Route | None] = {}  # of recent requests

    def find(self, method: str, target: bytes) -> Route | None:
        """Return the route of a request by its target, None without one.

        Raises BadTarget, also for a target that some servers would read as another route's path.
        """
        request = (method, target)
        if request in self._known:
            return self._known[request]
        route = self._find(method, target)
        if len(target) <= LONGEST_KNOWN:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[request] = route
        return route

    def _find(self, method: str, target: bytes) -> Route | None:
        clean = CLEAN.fullmatch(target)
        if clean is not None:
            pattern, routes = self._by_method.get(method, self._any_method)
            match = pattern.fullmatch(clean[1].decode("ascii") or "/")
            return None if match is None else routes[match.lastindex or 0]
        path, *others = self._paths.readings(target)
        route = self.match(method, path)
        for other in others:
            if self.match(method, other) is not route:
                raise BadTarget(f"two readings on different routes: {path} and {other}")
        return route

    def match(self, method: str, path: str) -> Route | None:
        """Return the route of a normalised path. HEAD is on GET's routes."""
        pattern, routes = self._by_method.get(method, self._any_method)
        match = pattern.fullmatch(path)
        if match is None or (path == "*" and method != "OPTIONS"):
            return None
        return routes[match.lastindex or 0]


_Compiled = tuple[re.Pattern[str], tuple[Route | None, ...]]


def _open_to(routes: Iterable[Route], method: str | None) -> list[Route]:
    methods = (None, "GET", "HEAD") if method == "HEAD" else (None, method)
    return [route for route in routes if route.method in methods]


def _compile(routes: Sequence[Route], flags: int) -> _Compiled:
    """Return one alternation; the empty group at the end of each branch identifies its route."""
    branches = "|".join(f"{_regex(route.pattern)}()" for route in routes)
    return re.compile(branches or "(?!)", flags), (None, *routes)


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
    # The leftmost match of a middle part is always the best one, so it needs no backtracking
    # (atomic group): several stars in a segment stay linear.
    middle = "".join(f"(?>[^/]*?{part})" for part in rest[:-1] if part)
    return f"{first}{middle}[^/]*{rest[-1]}"
