"""Paths are read in one way or refused; the first route that matches wins."""

import re
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.core.model import CallClass, Route
from sidecar.core.routing import BadTarget, RouteTable, normalise


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/?", "/"),
        (b"/premium", "/premium"),
        (b"/%70remium", "/premium"),
        (b"/premium/", "/premium"),
        (b"//premium", "/premium"),
        (b"/./premium", "/premium"),
        (b"/x/../premium", "/premium"),
        (b"/x/%2e%2E/premium", "/premium"),
        (b"/premium/x/..", "/premium"),
        (b"/premium/.", "/premium"),
        (b"/premium?", "/premium"),
        (b"/premium?a=/../b%2f%zz\\", "/premium"),
        (b"/PREMIUM", "/PREMIUM"),
        (b"/a//b///", "/a/b"),
        (b"/a.b/.well-known/...", "/a.b/.well-known/..."),
        (b"/a;v=1/b", "/a;v=1/b"),
        (b"/caf%C3%A9", "/café"),
        (b"/models/x%3Apredict", "/models/x:predict"),
        (b"/a%20b", "/a b"),
        (b"/100%25", "/100%"),
        (b"/a%2520b", "/a%20b"),
        (b"http://api.test/premium?x", "/premium"),
        (b"HTTPS://api.test", "/"),
        (b"http://api.test?x=/y", "/"),
        (b"http://api.test/x/../premium", "/premium"),
        (b"*", "*"),
    ],
)
def test_a_target_is_normalised(target: bytes, path: str) -> None:
    assert normalise(target) == path


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"?x",
        b"premium",
        b"api.test:443",
        b"http:///premium",
        b"ftp://api.test/premium",
        b"/premium#x",
        b"/premium?x#y",
        b"/x%2fpremium",
        b"/x%2Fpremium",
        b"/x\\..\\premium",
        b"/x%5cpremium",
        b"/premium%00",
        b"/premium%0a",
        b"/premium%7F",
        b"/premium%C2%85",
        b"/premium\x01",
        b"/premium?\x00",
        b"/pre mium",
        b"/premium%",
        b"/premium%2",
        b"/premium%zz",
        b"/..",
        b"/x/../../premium",
        b"/%2e%2e/premium",
        b"/x//../premium",
        b"/x//./../premium",
        b"/..;/premium",
        b"/x/..;a=b/premium",
        b"/x/.;/premium",
        b"/x/..%3b/premium",
        b"/%2570remium",
        b"/x/%252e%252e/premium",
        b"/x%252fpremium",
        b"/%25252e",
        b"/%c0%afpremium",
        b"/%ff",
        b"/%ed%a0%80",
        "/０".encode(),
    ],
)
def test_a_target_that_can_be_read_in_two_ways_is_refused(target: bytes) -> None:
    with pytest.raises(BadTarget, match=r"^[a-z]"):
        normalise(target)


@given(st.text(st.sampled_from("ab./%2eF;?*\\\x00é "), max_size=12))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    try:
        path = normalise(b"/" + text.encode())
    except BadTarget:
        assume(False)
    assert normalise(quote(path).encode()) == path
    assert path == "/" or re.fullmatch(r"(?:/[^/]+)+", path)
    assert not {".", ".."} & set(path.split("/"))


@given(st.binary(max_size=16))
def test_any_bytes_give_a_path_or_bad_target(data: bytes) -> None:
    try:
        assert normalise(data).startswith(("/", "*"))
    except BadTarget as refused:
        assert str(refused)


def a_route(match: str) -> Route:
    method, _, pattern = match.rpartition(" ")
    return Route(match, match, method or None, pattern, CallClass.STANDARD, frozenset(), ())


TABLE = [
    "POST /v1/auth/**",
    "GET /v1/status",
    "GET /v1/users/me",
    "GET /v1/users/{id}",
    "/v1/files/*/raw",
    "PUT /v1/files/*.json",
    "DELETE /v1/a*b*c/x",
    "OPTIONS *",
    "HEAD /only-head",
    "/any/**",
]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/auth", "POST /v1/auth/**"),
        ("POST", "/v1/auth/login/x", "POST /v1/auth/**"),
        ("POST", "/v1/authority", None),
        ("GET", "/v1/auth/login", None),
        ("GET", "/v1/status", "GET /v1/status"),
        ("HEAD", "/v1/status", "GET /v1/status"),
        ("POST", "/v1/status", None),
        ("GET", "/v1/users/me", "GET /v1/users/me"),
        ("GET", "/v1/users/7", "GET /v1/users/{id}"),
        ("GET", "/v1/users/7/x", None),
        ("GET", "/v1/users", None),
        ("GET", "/v1/files/a/raw", "/v1/files/*/raw"),
        ("BREW", "/v1/files/a/raw", "/v1/files/*/raw"),
        ("GET", "/v1/files/a/b/raw", None),
        ("PUT", "/v1/files/a.json", "PUT /v1/files/*.json"),
        ("PUT", "/v1/files/ajson", None),
        ("DELETE", "/v1/a1b2bc/x", "DELETE /v1/a*b*c/x"),
        ("DELETE", "/v1/abc/x", "DELETE /v1/a*b*c/x"),
        ("DELETE", "/v1/acb/x", None),
        ("DELETE", "/v1/ab/c/x", None),
        ("OPTIONS", "*", "OPTIONS *"),
        ("GET", "*", None),
        ("HEAD", "/only-head", "HEAD /only-head"),
        ("GET", "/only-head", None),
        ("GET", "/any", "/any/**"),
        ("GET", "/any/a\nb", "/any/**"),
        ("GET", "/", None),
    ],
)
def test_routes_match(method: str, path: str, expected: str | None) -> None:
    table = RouteTable([a_route(match) for match in TABLE])
    found = table.match(method, path)
    assert (found and found.match) == expected


def test_the_first_route_that_matches_wins_over_methods() -> None:
    routes = [a_route("/a/**"), a_route("GET /a/b"), a_route("/**")]
    table = RouteTable(routes)
    assert table.match("GET", "/a/b") is routes[0]
    assert table.match("GET", "/") is routes[2]
    assert table.match("PATCH", "/c/d") is routes[2]
    assert table.match("OPTIONS", "*") is None


def test_an_empty_table_matches_nothing() -> None:
    assert RouteTable([]).match("GET", "/") is None


@pytest.mark.parametrize("pattern", ["v1", "", "/**/x", "/a**", "/{id}.json", "/a{b}", "/{a b}"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f'"{pattern}"')):
        RouteTable([Route("r", pattern, None, pattern, CallClass.STANDARD, frozenset(), ())])


def test_characters_of_regular_expressions_are_literal_in_patterns() -> None:
    table = RouteTable([a_route("/a.b+(c)|d")])
    assert table.match("GET", "/a.b+(c)|d") is not None
    assert table.match("GET", "/axb(c)") is None
    assert table.match("GET", "d") is None


@given(st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=7),
       st.text("ab", min_size=1, max_size=9))  # fmt: skip
def test_stars_match_as_a_naive_matcher_does(parts: list[str], segment: str) -> None:
    glob = "".join(parts)
    assume("**" not in glob)
    naive = re.fullmatch(glob.replace("*", ".*"), segment)
    matched = RouteTable([a_route("/" + glob)]).match("GET", "/" + segment)
    assert (matched is None) == (naive is None)


def test_many_stars_do_not_backtrack() -> None:
    table = RouteTable([a_route("/" + "a*" * 25 + "z")])
    assert table.match("GET", "/" + "a" * 20_000) is None
