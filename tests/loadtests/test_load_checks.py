"""The verdict of a load run, which must detect each violation."""

import json
from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest

from loadtests.checks import (
    SECONDS,
    Customer,
    Quota,
    Rate,
    Verdict,
    bounds_of_key,
    costs_of,
    missing_explanation,
)
from sidecar.config import values

DOCUMENT: dict[str, Any] = {
    "routes": [
        {"id": "status", "match": "GET /v1/status", "cost": {}},
        {"id": "exports", "match": "POST /v1/{kind}/exports", "cost": {"requests": 10}},
        {"id": "items", "match": "GET /v1/items/*"},
        {"id": "bulk", "match": "/v1/bulk/**", "cost": {"requests": 5, "tokens": "reserve"}},
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
                {"id": "tokens", "meter": "tokens", "rate": "7/day"},
                {
                    "id": "cycle",
                    "meter": "requests",
                    "quota": "2_000/cycle",
                    "at": {"80%": "notice", "100%": "overage", "120%": "reject"},
                },
                {"id": "endless", "meter": "tokens", "quota": "5/day", "at": {"100%": "overage"}},
                {"id": "in-flight", "concurrency": 50},
            ],
        },
    },
    "accounts": [
        {
            "id": "acme",
            "plan": "pro",
            "anchor": "2026-01-31",
            "timezone": "America/New_York",
            "keys": [
                # SHA-256 of "a-key"
                {"sha256": "2a8a1240f50636655520ac8ed22aa29473b8517b4abfdbc3bc03bcad73fc8849"},
            ],
        }
    ],
}

NOON = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)


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


def test_an_explained_refusal_has_no_violation() -> None:
    assert missing_explanation(a_429(), a_problem()) == []


@pytest.mark.parametrize(
    ("headers", "body", "words"),
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
def test_a_missing_part_of_a_refusal_is_named(
    headers: dict[str, str], body: bytes, words: str
) -> None:
    (sentence,) = missing_explanation(headers, body)
    assert words in sentence


def test_rates_and_quotas_are_read_with_what_the_plan_extends() -> None:
    assert bounds_of_key(DOCUMENT, "a-key") == [
        Rate("per-second", "requests", Fraction(20), 40),
        Quota("monthly", "requests", 1_000, "month", "America/New_York", 31),
        Rate("per-key", "requests", Fraction(50), 50),
        Rate("tokens", "tokens", Fraction(7, 86_400), 7),
        Quota("cycle", "requests", 2_400, "cycle", "America/New_York", 31),
    ]


def test_each_window_of_the_plan_file_is_known() -> None:
    assert {window: seconds * 1_000_000 for window, seconds in SECONDS.items()} == values.WINDOWS_US


def test_an_unknown_api_key_is_named() -> None:
    with pytest.raises(LookupError, match="no key 'another'"):
        bounds_of_key(DOCUMENT, "another")


@pytest.mark.parametrize(
    ("method", "path", "costs"),
    [
        ("GET", "/v1/status", {}),
        ("POST", "/v1/a/exports", {"requests": 10}),
        ("GET", "/v1/items/1", {"requests": 1}),
        ("DELETE", "/v1/bulk/a/b", {"requests": 5}),
    ],
)
def test_the_cost_of_a_request_is_that_of_its_first_route(
    method: str, path: str, costs: dict[str, int]
) -> None:
    assert costs_of(DOCUMENT, method, path) == Counter(costs)


@pytest.mark.parametrize("path", ["/v1/items/1/parts", "/v1/statusx"])
def test_a_request_without_a_route_is_named(path: str) -> None:
    with pytest.raises(LookupError, match=f"no route for GET {path}"):
        costs_of(DOCUMENT, "GET", path)


@pytest.mark.parametrize(("admitted", "broken"), [(0, False), (60, False), (61, False), (62, True)])
def test_more_than_burst_and_rate_is_detected(admitted: int, broken: bool) -> None:
    # 10 at once, 50 in ten seconds, and one for the fraction of a second.
    rate = Rate("per-second", "requests", Fraction(5), 10)
    customer = Customer("acme", [rate], Counter(requests=admitted))
    assert bool(customer.exceeded(10.0, NOON)) is broken


@pytest.mark.parametrize(("admitted", "broken"), [(1_000, False), (1_001, True)])
def test_more_than_the_quota_is_detected(admitted: int, broken: bool) -> None:
    quota = Quota("exports", "exports", 1_000, "day", "UTC", 1)
    customer = Customer("acme", [quota], Counter(exports=admitted, requests=1_000_000))
    sentences = customer.exceeded(10.0, NOON)
    assert bool(sentences) is broken
    assert all("exports allows 1000" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("period", "zone", "anchor", "ended", "periods"),
    [
        ("hour", "UTC", 1, datetime(2026, 11, 23, 12, 0, 5, tzinfo=UTC), 2),
        ("hour", "UTC", 1, datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC), 1),
        ("hour", "Asia/Kathmandu", 1, datetime(2026, 11, 23, 12, 15, 5, tzinfo=UTC), 2),
        ("day", "America/New_York", 1, datetime(2026, 11, 23, 5, 0, 5, tzinfo=UTC), 2),
        ("day", "UTC", 1, datetime(2026, 11, 23, 5, 0, 5, tzinfo=UTC), 1),
        ("week", "UTC", 1, datetime(2026, 11, 23, 0, 0, 5, tzinfo=UTC), 2),  # a Monday
        ("month", "UTC", 15, datetime(2026, 11, 15, 0, 0, 5, tzinfo=UTC), 1),
        ("cycle", "UTC", 15, datetime(2026, 11, 15, 0, 0, 5, tzinfo=UTC), 2),
        ("cycle", "UTC", 31, datetime(2026, 2, 28, 0, 0, 5, tzinfo=UTC), 2),
        ("cycle", "UTC", 31, datetime(2026, 3, 1, 0, 0, 5, tzinfo=UTC), 1),
    ],
)
def test_a_quota_counts_once_for_each_period_of_the_run(
    period: str, zone: str, anchor: int, ended: datetime, periods: int
) -> None:
    assert Quota("q", "requests", 7, period, zone, anchor).allows(10.0, ended) == 7 * periods


def test_violations_are_counted_by_kind() -> None:
    verdict = Verdict()
    verdict.add("a", "b")
    verdict.add("b")
    assert verdict.lines() == ["2 × b", "1 × a"]
