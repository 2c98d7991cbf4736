"""A cost in the request becomes the cost of this request, and of no other."""

import pytest

from sidecar.config.loading import parse
from sidecar.core.claims import claims_for, with_estimates
from sidecar.core.costs import Unreadable
from sidecar.core.counting.account import reserve
from sidecar.core.counting.reservations import NEW
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.decision import decide
from sidecar.core.kinds import MOST_UNITS
from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading, whole_units
from sidecar.core.reasons import Reason
from sidecar.errors import ConfigError

FILE = """
version: 1
meters:
  calls: {unit: call}
  tokens: {unit: token, reserve: {json: max_tokens, default: 100}, settle: {json: usage.total}}
routes:
  - {id: chat, match: "POST /chat", cost: {calls: 1, tokens: reserve}}
  - {id: urgent, match: "POST /urgent", class: critical, cost: {calls: 7, tokens: reserve}}
plans:
  free:
    critical: {rate: 5/s}
    limits:
      - {id: calls, meter: calls, rate: 5/s}
      - {id: tokens, meter: tokens, rate: 1000/min}
"""


def entitlement(route: str = "chat") -> Entitlement:
    return parse(FILE.encode(), "plans.yaml").entitlements["free", route]


def costs(one: Entitlement) -> dict[str, int]:
    return {claim.limit.id: claim.cost for claim in one.claims}


def test_a_reading_sets_the_cost_in_route_and_claims() -> None:
    before = entitlement()
    now = with_estimates(before, Reading({"tokens": 300}, {}))
    assert now.route.cost == (("calls", 1), ("tokens", 300))
    assert costs(now) == {"calls": 1, "tokens": 300}
    assert (now.defaulted, now.settles, now.plan) == ((), before.settles, before.plan)
    assert costs(before) == {"calls": 1, "tokens": 100}, "the book's own entitlement stays"


@pytest.mark.parametrize("why", Unreadable)
def test_a_failed_reading_leaves_the_default_with_the_reason(why: Unreadable) -> None:
    now = with_estimates(entitlement(), Reading.failed(["tokens"], why))
    assert costs(now) == {"calls": 1, "tokens": 100}
    assert now.defaulted == (("tokens", why),)


@pytest.mark.parametrize(("asked", "units"), [(0, 50), (1, 50), (50, 50), (51, 51), (None, 100)])
def test_I11_an_estimate_is_at_least_the_minimum_of_the_plan(asked: int | None, units: int) -> None:
    text = FILE.replace("default: 100", "default: 100, min: 50")
    chat = parse(text.encode(), "plans.yaml").entitlements["free", "chat"]
    unread = Reading.failed(["tokens"], Unreadable.MISSING)
    now = with_estimates(chat, unread if asked is None else Reading({"tokens": asked}, {}))
    assert costs(now) == {"calls": 1, "tokens": units}


def test_a_minimum_above_the_default_is_refused() -> None:
    text = FILE.replace("default: 100", "default: 100, min: 101")
    with pytest.raises(ConfigError, match="default is below min; raise default, or lower min"):
        parse(text.encode(), "plans.yaml")


def test_an_estimate_of_zero_is_a_claim_of_zero() -> None:
    now = with_estimates(entitlement(), Reading({"tokens": 0}, {}))
    answer, after = reserve(NEW, [BoundClaim(f"f{n}", c) for n, c in enumerate(now.claims)], 1)
    assert answer.granted
    assert after.states["f1"].used == 0
    assert decide(now, answer).reason is Reason.OK


def test_one_request_reserves_at_most_what_redis_computes_exactly() -> None:
    now = with_estimates(entitlement(), Reading({"tokens": 2**53 - 1}, {}))
    assert costs(now)["tokens"] == MOST_UNITS
    answer, _ = reserve(NEW, [BoundClaim(f"f{n}", c) for n, c in enumerate(now.claims)], 1)
    assert not answer.granted
    assert decide(now, answer).violated[0].claim.limit.id == "tokens"


def test_the_critical_guard_counts_requests_even_beside_a_meter_of_its_name() -> None:
    urgent = entitlement("urgent")
    claims = claims_for(urgent, {"calls": 7, "tokens": 5})
    assert [(claim.limit.id, claim.cost, claim.forced) for claim in claims] == [
        ("calls", 7, True),
        ("tokens", 5, True),
        ("critical", 1, False),
    ]


@pytest.mark.parametrize(
    ("value", "units"),
    [
        (0, 0),
        (350, 350),
        (350.0, 350),
        (2**53 - 1, 2**53 - 1),
        (2**53, Unreadable.NOT_A_NUMBER),
        (10**400, Unreadable.NOT_A_NUMBER),
        (-1, Unreadable.NOT_A_NUMBER),
        (-0.0, 0),
        (0.5, Unreadable.NOT_A_NUMBER),
        (True, Unreadable.NOT_A_NUMBER),
        (False, Unreadable.NOT_A_NUMBER),
        ("350", 350),
        ("3_5", Unreadable.NOT_A_NUMBER),
        ("\u0663", Unreadable.NOT_A_NUMBER),
        ("9007199254740992", Unreadable.NOT_A_NUMBER),
        ([350], Unreadable.NOT_A_NUMBER),
        (float("nan"), Unreadable.NOT_A_NUMBER),
        (float("inf"), Unreadable.NOT_A_NUMBER),
        (None, Unreadable.MISSING),
    ],
)
def test_only_whole_numbers_are_units(value: object, units: object) -> None:
    found = whole_units(value)
    assert found == units
    assert type(found) is type(units)
