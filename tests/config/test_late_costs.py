"""Estimated costs of requests and actual costs of responses in the compiled plan book."""

import pytest

from sidecar.config.loading import parse
from sidecar.core.model import Entitlement

FILE = """
version: 1
meters:
  requests: {unit: request}
  tokens: {unit: token, reserve: {json: max_tokens, default: 0}, settle: {json: usage.total}}
  seconds: {unit: second, reserve: {json: seconds, default: 60, max_bytes: 100}}
routes:
  - {id: both, match: "POST /both", class: critical, cost: {tokens: reserve, seconds: reserve}}
  - {id: later, match: "POST /later", cost: {requests: 0, tokens: 0}}
  - {id: rest, match: "/**"}
plans:
  free:
    limits:
      - {id: calls, meter: requests, rate: 5/s}
      - {id: tokens, meter: tokens, quota: 1000/month}
"""


def entitlement(route: str) -> Entitlement:
    return parse(FILE.encode(), "plans.yaml").entitlements["free", route]


def test_the_body_is_read_up_to_the_widest_bound_of_its_meters() -> None:
    both = entitlement("both")
    assert [(meter, reserve.bound) for meter, reserve in both.estimates] == [
        ("seconds", 100),
        ("tokens", 262_144),
    ]
    assert both.read_up_to == 262_144


def test_a_default_of_zero_still_claims_its_limits() -> None:
    both = entitlement("both")
    assert both.route.cost == (("seconds", 60), ("tokens", 0))
    assert [(claim.limit.id, claim.cost) for claim in both.claims] == [
        ("tokens", 0),
        ("critical", 1),
    ]


def test_a_cost_of_zero_stays_only_where_the_response_has_the_actual_cost() -> None:
    later = entitlement("later")
    assert later.route.cost == (("tokens", 0),)
    assert [claim.limit.id for claim in later.claims] == ["tokens"]
    assert [meter for meter, _ in later.settles] == ["tokens"]


def test_only_a_meter_with_settle_settles() -> None:
    assert [(meter, path.text) for meter, path in entitlement("both").settles] == [
        ("tokens", "usage.total")
    ]


def test_other_routes_have_no_late_costs() -> None:
    rest = entitlement("rest")
    assert (rest.estimates, rest.read_up_to, rest.settles, rest.defaulted) == ((), 0, (), ())


@pytest.mark.parametrize(
    ("settle", "caps"),
    [
        ("{json: usage.total_tokens}", (("tokens", 10_000_000),)),
        ("{header: X-Credits}", (("tokens", 10_000_000),)),
        ("{json: usage.total_tokens, most: 5}", (("tokens", 5),)),
        ("{bytes: both}", ()),
        ("{bytes: both, most: 7}", (("tokens", 7),)),
    ],
)
def test_a_reported_cost_has_a_bound(settle: str, caps: tuple[tuple[str, int], ...]) -> None:
    book = parse(
        f"""
version: 1
meters: {{tokens: {{unit: token, settle: {settle}}}}}
routes: [{{id: rest, match: "/**", cost: {{tokens: 1}}}}]
plans: {{p: {{limits: [{{id: q, meter: tokens, quota: 9/day}}]}}}}
""".encode(),
        "p",
    )
    assert book.entitlements["p", "rest"].caps == caps


@pytest.mark.parametrize(
    ("limits", "guard"),
    [
        ("{id: a, meter: requests, rate: 5/s}", (1_000, 5_000)),
        ("{id: a, meter: requests, rate: 3000/s}", (3_000, 5_000)),
        ("{id: a, meter: requests, rate: 3000/s, burst: 9000}", (3_000, 9_000)),
        ("{id: a, meter: requests, quota: 9/day}", (1_000, 5_000)),
    ],
)
def test_a_client_that_keeps_to_its_plan_never_reaches_the_default_guard(
    limits: str, guard: tuple[int, int]
) -> None:
    book = parse(
        f"""
version: 1
meters: {{requests: {{unit: request}}}}
routes: [{{id: rest, match: "/**", class: critical}}]
plans: {{p: {{limits: [{limits}]}}, q: {{extends: p, critical: {{rate: 2/s}}}}}}
""".encode(),
        "p",
    )
    default, given = book.plans["p"].critical_guard, book.plans["q"].critical_guard
    assert (default.units, default.burst, default.window_us) == (*guard, 1_000_000)
    assert (given.units, given.burst) == (2, 2)
