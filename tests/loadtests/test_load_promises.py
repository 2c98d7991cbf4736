"""The load run's own judgement: it must see a broken promise."""

import json
from fractions import Fraction
from typing import Any

import pytest

from loadtests.checks import (
    Customer,
    Rate,
    Verdict,
    cost_of,
    rates_of_key,
    unexplained,
)

DOCUMENT: dict[str, Any] = {
    "routes": [
        {"id": "status", "match": "GET /v1/status", "cost": {}},
        {"id": "exports", "match": "POST /v1/{kind}/exports", "cost": {"requests": 10}},
        {"id": "items", "match": "GET /v1/items/*"},
        {"id": "bulk", "match": "/v1/bulk/**", "cost": {"requests": 5}},
    ],
    "plans": {
        "free": {
            "limits": [
                {"id": "per-second", "meter": "requests", "rate": "5/s", "burst": 10},
                {"id": "monthly", "meter": "requests", "quota": "1000/month"},
            ]
        },
        "pro": {
            "extends": "free",
            "limits": [
                {"id": "per-second", "meter": "requests", "rate": "1_200/min", "burst": 40},
                {"id": "per-key", "meter": "requests", "rate": "50/s", "per": "key"},
                {"id": "tokens", "meter": "tokens", "rate": "1/s"},
            ],
        },
    },
    "accounts": [
        {
            "id": "acme",
            "plan": "pro",
            "keys": [
                # SHA-256 of "a-key"
                {"sha256": "2a8a1240f50636655520ac8ed22aa29473b8517b4abfdbc3bc03bcad73fc8849"},
            ],
        }
    ],
}


def a_429(**changes: str | None) -> dict[str, str]:
    """Headers of an explained refusal, with some changed or (None) left out."""
    headers: dict[str, str | None] = {
        "Content-Type": "application/problem+json",
        "Retry-After": "1",
        "RateLimit": '"per-second";r=0;t=1',
        "RateLimit-Policy": '"per-second";q=5;w=1',
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in headers.items() if value is not None}


def a_problem(**changes: Any) -> bytes:
    """Body of an explained refusal."""
    problem = {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Too fast",
        "detail": "Account acme has used 5 of 5.",
        "violated-policies": ["per-second"],
        "how_to_fix": [{"action": "wait"}],
        "request_id": "019",
    }
    return json.dumps(problem | changes).encode()


def test_an_explained_refusal_passes() -> None:
    assert unexplained(a_429(), a_problem()) == []


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        (a_429(Content_Type="text/html"), a_problem(), "not application/problem+json"),
        (a_429(Retry_After="0"), a_problem(), "Retry-After '0'"),
        (a_429(Retry_After="1.5"), a_problem(), "Retry-After '1.5'"),
        (a_429(Retry_After=None), a_problem(), "Retry-After ''"),
        (a_429(RateLimit=None), a_problem(), "no RateLimit"),
        (a_429(RateLimit_Policy=None), a_problem(), "no RateLimit-Policy"),
        (a_429(), b"slow down", "not JSON"),
        (a_429(), b"[]", "not an object"),
        (a_429(), a_problem(how_to_fix=[]), "no 'how_to_fix'"),
        (a_429(), a_problem(request_id=""), "no 'request_id'"),
        (a_429(), a_problem(**{"violated-policies": []}), "no 'violated-policies'"),
    ],
)
def test_what_a_refusal_lacks_is_named(headers: dict[str, str], body: bytes, said: str) -> None:
    (sentence,) = unexplained(headers, body)
    assert said in sentence


def test_rates_are_read_with_what_the_plan_extends() -> None:
    assert rates_of_key(DOCUMENT, "a-key") == [
        Rate("per-second", "requests", Fraction(20), 40),
        Rate("per-key", "requests", Fraction(50), 50),
    ]


def test_a_key_that_the_plan_file_lacks_is_named() -> None:
    with pytest.raises(LookupError, match="no key 'another'"):
        rates_of_key(DOCUMENT, "another")


@pytest.mark.parametrize(
    ("method", "path", "cost"),
    [
        ("GET", "/v1/status", 0),
        ("POST", "/v1/a/exports", 10),
        ("GET", "/v1/items/1", 1),
        ("DELETE", "/v1/bulk/a/b", 5),
    ],
)
def test_the_cost_of_a_call_is_that_of_its_first_route(method: str, path: str, cost: int) -> None:
    assert cost_of(DOCUMENT, method, path) == cost


@pytest.mark.parametrize("path", ["/v1/items/1/parts", "/v1/statusx"])
def test_a_call_without_a_route_is_named(path: str) -> None:
    with pytest.raises(LookupError, match=f"no route for GET {path}"):
        cost_of(DOCUMENT, "GET", path)


@pytest.mark.parametrize(("admitted", "broken"), [(0, False), (60, False), (61, False), (62, True)])
def test_more_than_burst_and_rate_is_seen(admitted: int, broken: bool) -> None:
    # 10 at once, 50 in ten seconds, and one for the fraction of a second.
    customer = Customer("acme", [Rate("per-second", "requests", Fraction(5), 10)], admitted)
    assert bool(customer.over(10.0)) is broken


def test_broken_promises_are_counted_by_kind() -> None:
    verdict = Verdict()
    verdict.add("a", "b")
    verdict.add("b")
    assert verdict.lines() == ["2 × b", "1 × a"]
