"""What a plan file says and what the plan book has: inheritance, packs, moves, bounds."""

from datetime import datetime

import pytest

from sidecar.config.loading import parse
from sidecar.core.kinds import MICRO
from sidecar.core.model import PlanBook
from sidecar.errors import ConfigError

ROUTES = '[{id: login, match: "POST /login", class: critical}, {id: rest, match: "/**"}]'


def book(plans: str, more: str = "") -> PlanBook:
    """The book of a file with these plans."""
    meters = "{requests: {unit: request}, jobs: {unit: job}}"
    text = f"version: 1\nmeters: {meters}\nroutes: {ROUTES}\nplans: {plans}\n{more}\n"
    return parse(text.encode(), "plans.yaml")


def us(text: str) -> int:
    """µs since the epoch."""
    return round(datetime.fromisoformat(text).timestamp()) * MICRO


PARENT = """p: {
  features: [export], critical: {rate: 7/s}, when_store_is_down: allow, tunnels_at_quota: close,
  when_sidecar_dies: release, refund: [upstream_5xx], enforce: shadow,
  limits: [{id: a, meter: requests, quota: 9/day}]}"""


def test_a_plan_inherits_what_it_does_not_set() -> None:
    plans = book("{" + PARENT + ", q: {extends: p}}").plans
    parent, child = plans["p"], plans["q"]
    assert child.features == {"export"}
    assert child.limits == parent.limits
    assert child.limits[0].shadow
    assert child.critical_guard.units == 7
    assert (child.when_store_is_down, child.closes_tunnels) == ("allow", True)
    assert (child.orphans, child.refunds) == ("release", {"upstream_5xx"})


def test_a_plan_replaces_what_it_sets_also_by_nothing() -> None:
    child = book(
        "{"
        + PARENT
        + """, q: {
          extends: p, features: [], critical: {rate: 8/s}, when_store_is_down: deny,
          tunnels_at_quota: keep, when_sidecar_dies: charge, refund: [],
          limits: [{id: a, meter: requests, quota: 10/day}, {id: b, meter: jobs, quota: 1/day}]}}"""
    ).plans["q"]
    assert (child.features, child.refunds) == (set(), set())
    assert [(limit.id, limit.shadow) for limit in child.limits] == [("a", True), ("b", True)]
    assert child.limits[0].capacity == 10
    assert child.critical_guard.units == 8
    assert (child.when_store_is_down, child.closes_tunnels) == ("deny", False)
    assert child.orphans == "charge"


@pytest.mark.parametrize(
    ("rate", "guard"),
    [
        ("{rate: 70_000/min}", (70_000, 60 * MICRO, 70_000)),  # more than 1,000 in a second
        ("{rate: 50_000/min, burst: 90_000}", (1_000, MICRO, 5_000)),
        ("{rate: 2_000/s, burst: 3_000}", (2_000, MICRO, 5_000)),
    ],
)
def test_the_default_guard_has_the_higher_rate_whatever_their_spans(
    rate: str, guard: tuple[int, int, int]
) -> None:
    limit = f"{{id: a, meter: requests, {rate[1:-1]}}}"
    found = book(f"{{p: {{limits: [{limit}]}}}}").plans["p"].critical_guard
    assert (found.units, found.window_us, found.burst) == guard


TWO_QUOTAS = """{p: {limits: [
  {id: first, meter: requests, quota: 9/month},
  {id: keyed, meter: requests, quota: 9/hour, per: key}]}}"""


@pytest.mark.parametrize(
    ("lasts", "expected"),
    [
        ("cycle", "cycle"),
        ("90m", "5400s"),
        ("30d", "2592000s"),
        ("2027-12-31", us("2028-01-01T00:00:00+00:00")),
    ],
)
def test_a_pack_lasts_to_the_end_of_its_last_day(lasts: str, expected: str | int) -> None:
    pack = book(TWO_QUOTAS, f"packs: {{b: {{meter: requests, units: 5, lasts: {lasts}}}}}").packs[
        "b"
    ]
    assert (pack.limit, pack.lasts) == ("first", expected)


@pytest.mark.parametrize(
    ("zone", "midnight"),
    [("America/New_York", "2027-03-01T00:00:00-05:00"), ("UTC", "2027-03-01T00:00:00+00:00")],
)
def test_a_scheduled_move_is_at_midnight_of_the_account(zone: str, midnight: str) -> None:
    then = "then: {plan: q, from: 2027-03-01}"
    accounts = f"accounts: [{{id: acme, plan: p, timezone: {zone}, {then}}}]"
    change = book("{p: {}, q: {}}", accounts).accounts["acme"].next_plan
    assert change is not None
    assert (change.plan, change.at_us) == ("q", us(midnight))


def one_limit(limit: str) -> PlanBook:
    return book(f"{{p: {{limits: [{{id: a, meter: requests, {limit}}}]}}}}")


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        ("rate: 5/s, max_wait: 300s", "rate: 5/s, max_wait: 301s"),
        ("rate: 5/s, max_wait: 5m", "rate: 5/s, max_wait: 6m"),
        ("quota: 9/31622400s", "quota: 9/31622401s"),
    ],
)
def test_bounds_of_a_plan_file_include_their_end(allowed: str, refused: str) -> None:
    assert one_limit(allowed).plans["p"].limits
    with pytest.raises(ConfigError):
        one_limit(refused)


@pytest.mark.parametrize(("rollover", "units"), [("up to 20%", 20), ("20%", 20)])
def test_a_rollover_is_a_part_of_the_quota_not_of_its_cap(rollover: str, units: int) -> None:
    at = "at: {100%: overage, 200%: reject}"
    [limit] = one_limit(f'quota: 100/month, rollover: "{rollover}", {at}').plans["p"].limits
    assert (limit.rollover, limit.capacity) == (units, 200)  # type: ignore[union-attr]


def test_an_estimate_by_default_is_at_least_the_least() -> None:
    text = """version: 1
meters: {tokens: {unit: token, reserve: {bytes_per_unit: 4, min: 50}, settle: {json: a}}}
routes: [{id: rest, match: "/**", cost: {tokens: reserve}}]
plans: {p: {limits: [{id: t, meter: tokens, quota: 9/day}]}}
"""
    [(_, reserve)] = parse(text.encode(), "p").entitlements["p", "rest"].estimates
    assert (reserve.default, reserve.least) == (50, 50)
