"""The first matching route wins. A path that could be on another route is refused."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidecar.core.model import RequestClass, Route
from sidecar.core.paths import Allowance, BadTarget, Normaliser
from sidecar.core.routing import LONGEST_KNOWN, MOST_KNOWN, RouteTable


def a_route(match: str) -> Route:
    method, _, pattern = match.rpartition(" ")
    return Route(match, match, method or None, pattern, RequestClass.STANDARD, frozenset(), ())


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
def test_an_invalid_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f'"{pattern}"')):
        RouteTable([Route("r", pattern, None, pattern, RequestClass.STANDARD, frozenset(), ())])


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


PRICED = [
    "POST /v1/auth/**",
    "/v1/status",
    "/v1/exports",
    "/v1/files/{name}",
    "/v1/audit/**",
    "/Kelvin",
    "/**",
]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/v1/exports", "/v1/exports"),
        (b"/v1/exports?x=/../..;%2f", "/v1/exports"),
        (b"//v1/./exports//", "/v1/exports"),
        (b"/v1/export%73", "/v1/exports"),
        (b"http://api.test/v1/exports", "/v1/exports"),
        (b"/v1/audit/a/../b", "/v1/audit/**"),
        (b"/v1/audit/a;b=c/d", "/v1/audit/**"),
        (b"/v1/files/a;b", "/v1/files/{name}"),
        (b"/v1/files/a%20b.%20", "/v1/files/{name}"),
        (b"/v1/files/what%3F", "/v1/files/{name}"),
        (b"/v1/files/wait%E2%80%A6txt", "/v1/files/{name}"),
        (b"/V1/exports", "/**"),
        (b"/v1/exports.json", "/**"),
    ],
)
def test_a_route_is_found_by_its_target(target: bytes, expected: str) -> None:
    found = RouteTable([a_route(match) for match in PRICED]).find("GET", target)
    assert found is not None
    assert found.match == expected


@pytest.mark.parametrize(
    "target",
    [
        b"/v1;x/exports",
        b"/v1/exports;x=y",
        b"/v1/exports%3Bx",
        b"/v1/;/exports",
        b"/;a/v1/exports",
        b"/v1/audit/../status",
        b"/v1/files/../files/x",
        b"/v1/audit/x/../../exports",
        b"/x/../v1/exports",
        b"/v1/files/a/../../../Kelvin",
        b"/v1/exports.",
        b"/v1/exports...",
        b"/v1/exports%20",
        b"/v1/exports%20.",
        b"/v1./exports",
        b"/v1/exports%3Fx",
        b"/v1/exports%23",
        b"/v1%EF%BC%8Fexports",
        b"/v1/files%EF%BC%BCa",
        b"/v1/%EF%BD%85xports",
        b"/v1/%F0%9D%90%9Expor%E2%93%A3s",
        b"/%E2%84%AAelvin",
        b"/v1/exports%EF%BC%85%EF%BC%92%EF%BC%90",
    ],
)
def test_a_target_that_may_be_of_another_route_is_refused(target: bytes) -> None:
    table = RouteTable([a_route(match) for match in PRICED])
    with pytest.raises(BadTarget, match="different routes"):
        table.find("GET", target)


def test_a_semicolon_can_be_allowed_as_a_character() -> None:
    routes = [a_route("/v1/exports"), a_route("/v1/exports;all"), a_route("/**")]
    table = RouteTable(routes, Normaliser(frozenset({Allowance.SEMICOLON})))
    assert table.find("GET", b"/v1/exports;all") is routes[1]
    assert table.find("GET", b"/v1/exports;x") is routes[2]
    with pytest.raises(BadTarget, match="disguise"):
        table.find("GET", b"/v1/x/..;/exports")


def test_an_allowed_encoded_slash_never_separates() -> None:
    routes = [a_route("/projects/{id}/issues"), a_route("/projects/**"), a_route("/**")]
    table = RouteTable(routes, Normaliser(frozenset({Allowance.ENCODED_SLASH})))
    assert table.find("GET", b"/projects/group%2Fname/issues") is routes[0]
    assert table.find("GET", b"/projects%2fa/issues") is routes[2]
    with pytest.raises(BadTarget, match="disguise"):
        table.find("GET", b"/projects/..%2Fstatus/issues")


def test_case_can_be_ignored() -> None:
    routes = [a_route("GET /v1/Exports"), a_route("/**")]
    table = RouteTable(routes, ignore_case=True)
    assert table.find("GET", b"/V1/exports") is routes[0]
    assert table.find("HEAD", b"/v1/%45XPORTS/") is routes[0]
    assert RouteTable(routes).find("GET", b"/v1/exports") is routes[1]


@given(st.lists(st.sampled_from(["v1", "exports", "a", "*", "?q", "%C3%A9"]), max_size=4))
def test_find_equals_match_of_the_normalised_path_if_there_is_one_reading(parts: list[str]) -> None:
    target = ("/" + "/".join(parts)).encode()
    paths = Normaliser()
    table = RouteTable([a_route(match) for match in PRICED], paths)
    [path] = paths.readings(target)
    assert table.find("GET", target) is table.match("GET", path)


def test_I9_routes_of_recent_requests_are_cached_up_to_a_bound() -> None:
    table = RouteTable([a_route(match) for match in TABLE])
    for number in range(MOST_KNOWN * 2):
        for method, expected in (("GET", "GET /v1/users/{id}"), ("POST", None)):
            route = table.find(method, b"/v1/users/%d" % number)
            assert (route and route.id) == expected
            assert table.find(method, b"/v1/users/%d" % number) is route
        assert len(table._known) <= MOST_KNOWN
    before = len(table._known)
    table.find("GET", b"/v1/users/" + b"x" * LONGEST_KNOWN)
    for _ in range(2):
        with pytest.raises(BadTarget):
            table.find("GET", b"/v1/users/..%2fme")
    assert len(table._known) == before
