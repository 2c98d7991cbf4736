"""Costs that the request or the response tells: how they stand in the compiled book."""

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


def test_a_default_of_nothing_still_claims_its_limits() -> None:
    both = entitlement("both")
    assert both.route.cost == (("seconds", 60), ("tokens", 0))
    assert [(claim.limit.id, claim.cost) for claim in both.claims] == [
        ("tokens", 0),
        ("critical", 1),
    ]


def test_a_cost_of_nothing_stays_only_where_the_response_tells_the_real_one() -> None:
    later = entitlement("later")
    assert later.route.cost == (("tokens", 0),)
    assert [claim.limit.id for claim in later.claims] == ["tokens"]
    assert [meter for meter, _ in later.settles] == ["tokens"]


def test_a_meter_with_both_settles_and_one_without_does_not() -> None:
    assert [(meter, path.text) for meter, path in entitlement("both").settles] == [
        ("tokens", "usage.total")
    ]


def test_other_routes_know_nothing_of_late_costs() -> None:
    rest = entitlement("rest")
    assert (rest.estimates, rest.read_up_to, rest.settles, rest.guessed) == ((), 0, (), ())
