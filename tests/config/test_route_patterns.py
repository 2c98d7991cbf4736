"""Which requests a `match` covers: those that the route table finds, or it is rejected."""

from collections.abc import Iterator
from itertools import product
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.config.loading import parse
from sidecar.config.route_patterns import error, split_match, unreached
from sidecar.core.model import RequestClass, Route
from sidecar.core.paths import Allowance, Normaliser
from sidecar.core.routing import RouteTable

PLANS = """
version: 1
meters: {requests: {unit: request}}
routes:
  - {id: named, match: '%s'}
  - {id: rest, match: "/**"}
plans: {free: {}}
"""


@pytest.mark.parametrize(
    ("match", "method", "target", "allowed"),
    [
        ("/a b", "GET", b"/a%20b", ()),
        ("GET /a b/*", "GET", b"/a%20b/c%20d", ()),
        ("/café/münze", "GET", b"/caf%C3%A9/m%c3%bcnze", ()),
        ("/価格", "POST", quote("/価格").encode(), ()),
        ("/100%", "GET", b"/100%25", ()),
        ('/[x]|"<y>"', "GET", b"/%5Bx%5D%7C%22%3Cy%3E%22", ()),
        ("OPTIONS *", "OPTIONS", b"*", ()),
        ("//v1//items/", "GET", b"/v1/items", ()),
        ("/group%2Fname", "GET", b"/group%2fname", (Allowance.ENCODED_SLASH,)),
        ("/caf%E9", "GET", b"/caf%e9", (Allowance.NOT_UTF8,)),
        ("/a\\b", "GET", b"/a%5Cb", (Allowance.BACKSLASH,)),
        ("/a;b", "GET", b"/a;b", (Allowance.SEMICOLON,)),
    ],
)
def test_a_pattern_matches_the_path_after_decoding(
    match: str, method: str, target: bytes, allowed: tuple[Allowance, ...]
) -> None:
    book = parse((PLANS % match).encode(), "plans.yaml")
    route = RouteTable(book.routes, Normaliser(frozenset(allowed))).find(method, target)
    assert route is not None
    assert route.id == "named"


def test_a_final_wildcard_does_not_match_options_asterisk() -> None:
    book = parse((PLANS % "/a").encode(), "plans.yaml")
    assert RouteTable(book.routes).find("OPTIONS", b"*") is None


SEGMENTS = st.text(
    st.sampled_from("aé .;%2F5\\*ｅ…~'\"<"), min_size=1, max_size=6
) | st.sampled_from(["..", ".", "{id}", "%20", "%2F", "**", "a b"])


@settings(max_examples=300, deadline=None)
@given(st.lists(SEGMENTS, min_size=1, max_size=3))
def test_an_accepted_pattern_matches_a_request_that_a_client_can_send(segments: list[str]) -> None:
    match = "/" + "/".join(segments)
    if error(match) is not None:
        return
    route = a_route(match)
    table = RouteTable([route, a_route("/**")], Normaliser(frozenset(Allowance)))
    path = "/".join("x" if part in ("{id}", "**") else part.replace("*", "x") for part in segments)
    assert table.find("GET", as_sent("/" + path)) is route


def as_sent(path: str) -> bytes:
    """Encoded as a client does, except the one escape that these patterns may contain."""
    return b"%2F".join(quote(part).encode() for part in path.split("%2F"))


def a_route(match: str) -> Route:
    method, pattern = split_match(match)
    return Route(match, match, method, pattern, RequestClass.STANDARD, frozenset(), ())


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        (["/**", "POST /v1/auth/**"], [(1, [0])]),
        (["POST /v1/auth/**", "/**"], []),
        (["/a/**", "/a"], [(1, [0])]),
        (["/a", "/a/**"], []),
        (["GET /a", "HEAD /a"], [(1, [0])]),
        (["HEAD /a", "GET /a"], []),
        (["GET /a", "/a"], []),
        (["/a", "GET /a"], [(1, [0])]),
        (["/a/*", "/a/{id}", "/a/b"], [(1, [0]), (2, [0])]),
        (["/*/b", "/a/*"], []),
        (["/a/*b*", "/a/xb*", "/a/*"], [(1, [0])]),
        (["/a/xy*z", "/a/x*"], []),
        (["/a/*/**", "/a/**"], []),
        (["/a", "/a/*/**", "/a/**"], [(2, [0, 1])]),
        (["/a//b", "/a/b/"], [(1, [0])]),
        (["/**", "OPTIONS *"], []),
        (["OPTIONS *", "OPTIONS *", "OPTIONS /**"], [(1, [0])]),
    ],
)
def test_a_route_that_earlier_routes_cover_is_never_reached(
    matches: list[str], expected: list[tuple[int, list[int]]]
) -> None:
    assert list(unreached(matches)) == expected


PIECES = st.sampled_from(["a", "b", "*", "a*", "*b", "a*b", "{id}"])
PATTERNS = st.builds(
    lambda method, pieces, tail: f"{method}/{'/'.join([*pieces, *tail])}",
    st.sampled_from(["", "GET ", "HEAD ", "PUT "]),
    st.lists(PIECES, max_size=2),
    st.sampled_from([[], ["**"]]),
)


def requests() -> Iterator[tuple[str, str]]:
    names = ["a", "b", "ab", "axb", "xb", "ax", "x"]
    for depth in range(4):
        for parts in product(names, repeat=depth):
            for method in ("GET", "HEAD", "PUT", "ANY"):
                yield method, "/" + "/".join(parts)


@settings(max_examples=100, deadline=None)
@given(st.lists(PATTERNS, min_size=2, max_size=5))
def test_a_route_is_unreached_exactly_if_no_request_reaches_it(matches: list[str]) -> None:
    routes = [a_route(match) for match in matches]
    table = RouteTable(routes)
    reached = {id(table.match(method, path)) for method, path in requests()}
    never = [number for number, route in enumerate(routes) if id(route) not in reached]
    assert [number for number, _ in unreached(matches)] == never
