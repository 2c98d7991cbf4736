"""Teams of an account: guarantees under load, and lending as time passes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.answers import Answer, Hold
from sidecar.core.counting import account as accounts
from sidecar.core.counting.limits import Grant, Window
from sidecar.core.counting.orphans import sweep
from sidecar.core.counting.reservations import NEW, AccountState
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.counting.teams import MOST_TEAMS, TeamEntitlements, read_teams, team_share
from sidecar.core.decision import crossings_of, decide
from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit
from sidecar.core.model import (
    Account,
    Claim,
    Entitlement,
    Key,
    Links,
    Pack,
    Plan,
    PlanBook,
    RequestClass,
    Route,
    Team,
)
from sidecar.core.reasons import Decision, Reason
from sidecar.core.refusals.build import limit_refusal
from sidecar.core.refusals.rendering import render_text

DAY = 86_400 * MICRO
START = 20_000 * DAY
WINDOW = Window(START, START + 30 * DAY, START + 60 * DAY, START - 30 * DAY)
MONTHLY = QuotaLimit("monthly", "requests", 1000, "month", 1000)
GUARD = RateLimit("critical", "calls", 1000, MICRO, 5000, (1000, 1))
TEAMS = (Team("search", 40), Team("ads", 30, lends=False))


@dataclass
class House:
    """An account with teams, whose clock the test moves."""

    teams: tuple[Team, ...] = TEAMS
    quota: QuotaLimit = MONTHLY
    now: int = START
    ledger: AccountState = NEW

    def claims(self, team: str, cost: int, *, forced: bool = False) -> tuple[Claim, ...]:
        share = team_share(self.quota, self.teams, team)
        return Claim(self.quota, cost, forced), Claim(share, cost, forced)

    def asks(self, claims: Sequence[Claim]) -> list[BoundClaim]:
        quota, share = claims
        others = tuple(one.id for one in self.teams if one.id != share.limit.team)  # type: ignore[union-attr]
        team = share.limit.team  # type: ignore[union-attr]
        return [BoundClaim("monthly", quota, WINDOW), BoundClaim(team, share, WINDOW, others)]

    def call(self, team: str, cost: int = 1, *, forced: bool = False) -> Answer:
        asks = self.asks(self.claims(team, cost, forced=forced))
        answer, self.ledger = accounts.reserve(self.ledger, asks, self.now)
        return answer

    def granted(self, team: str, cost: int = 1) -> bool:
        return self.call(team, cost).granted

    def kept(self, team: str) -> int:
        asks = self.asks(self.claims(team, 0))
        return accounts.peek(self.ledger, asks, self.now).details[1].notified

    def at_most(self, team: str) -> int:
        """The largest call that would pass."""
        low, high = 0, 3000
        while low < high:
            middle = (low + high + 1) // 2
            asks = self.asks(self.claims(team, middle))
            if accounts.peek(self.ledger, asks, self.now).granted:
                low = middle
            else:
                high = middle - 1
        return low

    def used(self, field: str = "monthly") -> int:
        state = self.ledger.states.get(field)
        return state.used if state else 0


def test_the_example_of_the_documentation() -> None:
    house = House()
    assert [house.at_most(team) for team in ("search", "ads", "")] == [700, 600, 300]
    assert house.granted("", 300)
    assert [house.at_most(team) for team in ("search", "ads", "")] == [400, 300, 0]
    house.now = START + 15 * DAY  # no other request
    assert (house.kept("search"), house.kept("ads")) == (200, 300)
    assert [house.at_most(team) for team in ("search", "ads", "")] == [400, 500, 200]
    assert house.granted("", 200)
    assert [house.at_most(team) for team in ("search", "ads", "")] == [200, 300, 0]
    assert house.granted("search", 200)
    assert not house.granted("search")
    house.now = WINDOW.end - 1
    assert [house.kept(team) for team in ("search", "ads")] == [0, 300]
    assert [house.at_most(team) for team in ("search", "ads", "")] == [0, 300, 0]


def test_a_team_can_use_units_that_are_not_guaranteed() -> None:
    house = House()
    assert house.granted("search", 700)
    assert not house.granted("search")
    assert house.granted("ads", 300)


def test_units_that_a_lending_team_leaves_are_available_to_all_by_the_end() -> None:
    house = House(teams=(Team("search", 90),))
    house.now = WINDOW.end - 1
    assert house.at_most("") == 1000 - 9  # a hundredth of its share


def test_a_team_that_uses_its_guarantee_evenly_is_never_refused() -> None:
    house = House()
    for day in range(30):
        house.now = START + day * DAY
        share = 400 * (day + 1) // 30 - 400 * day // 30
        assert house.granted("search", share)
        while house.granted("", 7):
            pass
    assert house.used("search") == 400


def test_a_new_period_begins_with_whole_guarantees() -> None:
    house = House()
    house.call("search", 700)
    house.now = WINDOW.end
    assert (house.kept("search"), house.kept("ads"), house.at_most("")) == (400, 300, 300)
    assert house.granted("search", 700)


def test_a_clock_that_steps_back_lends_less_and_grants_nothing() -> None:
    house = House()
    house.now = START + 15 * DAY
    most = house.at_most("")
    house.now = START
    assert house.at_most("") < most


def test_critical_requests_count_and_later_requests_respect_guarantees() -> None:
    house = House()
    assert house.call("", 800, forced=True).granted
    assert not house.granted("")
    assert house.granted("ads", 150)
    assert house.granted("search", 50)
    assert not house.granted("search") and not house.granted("ads")
    assert house.used() == 1000


def test_returned_units_are_guaranteed_again() -> None:
    house = House()
    asks = house.asks(house.claims("ads", 300))
    _, house.ledger = accounts.reserve(house.ledger, asks, house.now, Hold("h", MICRO))
    assert house.kept("ads") == 0
    real = house.asks(house.claims("ads", 20))
    _, house.ledger = accounts.settle(house.ledger, "h", real, house.now)
    assert (house.kept("ads"), house.used("ads"), house.used()) == (280, 20, 20)


def test_released_units_of_a_dead_sidecar_are_guaranteed_again() -> None:
    house = House()
    asks = house.asks(house.claims("ads", 300))
    _, house.ledger = accounts.reserve(house.ledger, asks, house.now, Hold("h", MICRO, "release"))
    house.now += 2 * MICRO
    house.ledger = sweep(house.ledger, house.now)
    assert (house.kept("ads"), house.used("ads"), house.used()) == (300, 0, 0)


def test_any_team_can_use_a_pack_and_its_use_counts_for_the_team() -> None:
    house = House()
    assert house.granted("search", 700)
    _, house.ledger = accounts.grant(house.ledger, Grant("g", "monthly", 50, WINDOW.end), house.now)
    assert house.granted("search", 50)
    assert not house.granted("search")
    assert house.granted("ads", 300)
    assert (house.used("search"), house.used("ads")) == (750, 300)


def test_a_changed_share_acts_on_the_next_request_and_keeps_usage() -> None:
    house = House()
    house.call("search", 100)
    house.teams = (Team("search", 20), Team("ads", 30, lends=False))
    assert house.kept("search") == 100
    house.teams = (Team("ads", 30, lends=False),)
    assert house.kept("search") == 0
    assert house.at_most("search") == 600


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["search", "ads", "mail", "", "gone"]), st.integers(0, 400),
        st.integers(0, 10 * DAY),
    ),
    max_size=12,
)  # fmt: skip
SHARES = st.builds(
    lambda a, b, c, lends: (
        Team("search", a, lends[0]), Team("ads", b, lends[1]), Team("mail", c, lends[2])
    ),
    st.integers(1, 40), st.integers(1, 30), st.integers(1, 30),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)  # fmt: skip


def lived(teams: tuple[Team, ...], calls: Sequence[tuple[str, int, int]]) -> House:
    house = House(teams)
    for team, cost, later in calls:
        house.call(team, cost)
        house.now = min(house.now + later, WINDOW.end - 1)
    return house


@given(teams=SHARES, calls=CALLS)
def test_I1_teams_never_use_more_than_the_account_has(
    teams: tuple[Team, ...], calls: list[tuple[str, int, int]]
) -> None:
    house = lived(teams, calls)
    kept = sum(house.kept(team.id) for team in teams)
    assert house.used() + kept <= MONTHLY.cap
    whose = ("search", "ads", "mail", "", "gone")
    assert house.used() == sum(house.used(team) for team in whose)


@given(teams=SHARES, calls=CALLS, flood=st.permutations(["search", "ads", "mail", ""]))
def test_a_team_is_admitted_within_its_guarantee_however_much_others_send(
    teams: tuple[Team, ...], calls: list[tuple[str, int, int]], flood: list[str]
) -> None:
    house = lived(teams, calls)
    for name in ("search", "ads", "mail"):
        flooded = replace(house)
        kept = flooded.kept(name)
        for other in flood:
            while other != name and flooded.granted(other, 50):
                pass
            while other != name and flooded.granted(other, 3):
                pass
        assert flooded.granted(name, kept)


@given(teams=SHARES, calls=CALLS)
def test_a_team_that_does_not_lend_is_always_admitted_within_its_guarantee(
    teams: tuple[Team, ...], calls: list[tuple[str, int, int]]
) -> None:
    house = lived(teams, calls)
    for team in teams:
        if not team.lends:
            share = 1000 * team.percent // 100
            assert house.granted(team.id, max(0, share - house.used(team.id)))


@given(teams=SHARES, calls=CALLS, late=st.sampled_from([0, 10, 29]))
def test_I2_a_refusal_leaves_everything_as_it_was(
    teams: tuple[Team, ...], calls: list[tuple[str, int, int]], late: int
) -> None:
    house = lived(teams, calls)
    before = house.ledger
    if not house.granted("", 900 - late):
        assert house.ledger == before


# Texts for customers.

PRO = Plan("pro", 0, frozenset(), (MONTHLY,), GUARD, "local")
MAX = Plan("max", 1, frozenset(), (replace(MONTHLY, units=9000, cap=9000),), GUARD, "local")
ROUTE = Route("rest", "/**", None, "/**", RequestClass.STANDARD, frozenset(), (("requests", 1),))
PLAIN = Entitlement(PRO, ROUTE, (Claim(MONTHLY, 1, False),), (), None, b"", ())
ACME = Account("acme", "pro", teams=TEAMS)
BOOK = PlanBook(
    "sha256:0", {}, (ROUTE,), {"pro": PRO, "max": MAX},
    {("pro", "rest"): PLAIN, ("max", "rest"): replace(PLAIN, plan=MAX)},
    links=Links(), packs={"boost": Pack("boost", "monthly", "requests", 50, "month")},
)  # fmt: skip


def decided(house: House, team: str, cost: int = 1) -> tuple[Entitlement, Decision]:
    entitlement = replace(PLAIN, claims=house.claims(team, cost))
    return entitlement, decide(entitlement, house.call(team, cost))


def refused(house: House, team: str, cost: int = 1) -> tuple[dict[str, object], str]:
    entitlement, decision = decided(house, team, cost)
    refusal = limit_refusal(BOOK, entitlement, ACME, decision, "id", 0)
    assert (refusal.status, refusal.reason) == (429, Reason.QUOTA)
    return refusal.problem, render_text(refusal).decode()


def test_I10_a_refusal_explains_the_share_of_the_team() -> None:
    house = House()
    house.call("search", 650)
    problem, text = refused(house, "search", 60)
    assert problem["title"] == "Monthly quota: too little left for this team"
    assert problem["violated-policies"] == ["monthly"]
    assert problem["limit"] == {
        "id": "monthly", "meter": "requests", "limit": 1000, "used": 650,
        "resets_at": "2024-11-03T00:00:00Z",
        "team": {
            "id": "search", "guaranteed": 400, "used": 650, "left": 50, "guaranteed_to_others": 300
        },
    }  # fmt: skip
    assert (
        "Team search of account acme on plan pro has used 650 requests this month (400 are "
        "guaranteed to it); 300 of the 350 requests that the account has left are guaranteed to "
        "other teams. It may use 50 more now. This request costs 60. It resets on "
        "2024-11-03T00:00:00Z."
    ) in text
    actions = [step["action"] for step in problem["how_to_fix"]]  # type: ignore[attr-defined]
    assert actions == ["wait", "ask", "buy_pack", "upgrade"]


def test_I10_a_refusal_explains_that_the_key_has_no_team() -> None:
    house = House()
    house.call("", 300)
    problem, text = refused(house, "")
    assert problem["title"] == "Monthly quota: nothing left for this team"
    assert problem["limit"]["team"]["id"] is None  # type: ignore[index]
    assert "An API key without a team of account acme on plan pro is guaranteed nothing" in text


def test_I10_a_refusal_reports_what_the_team_has_lent() -> None:
    house = House()
    house.now = START + 15 * DAY
    house.call("", 500)
    house.call("search", 200)
    _, text = refused(house, "search")
    assert (
        "has used 200 requests this month (400 are guaranteed to it, 200 of them were lent" in text
    )


def test_a_used_up_account_quota_is_reported_as_the_account_quota() -> None:
    house = House()
    house.call("search", 700)
    house.call("ads", 300)
    problem, _ = refused(house, "search")
    assert problem["title"] == "Monthly quota used up"
    assert "team" not in problem["limit"]  # type: ignore[operator]


def test_a_request_that_never_fits_beside_the_guarantees_has_no_reset() -> None:
    house = House()
    problem, text = refused(house, "search", 701)
    assert "more than the limit of 700 ever allows" in text
    assert problem["limit"]["resets_at"] is None  # type: ignore[index]


def test_the_remainder_is_what_the_team_can_use() -> None:
    house = House()
    _, decision = decided(house, "ads", 100)
    assert decision.tightest is not None
    assert (decision.tightest.remaining, decision.tightest.limit_units) == (500, 1000)
    assert decision.tightest.claim.limit == MONTHLY


def test_teams_can_use_overage_and_it_is_reported_as_overage() -> None:
    house = House(quota=replace(MONTHLY, cap=1200))
    assert house.granted("", 500)
    assert house.granted("search", 400)
    _, decision = decided(house, "ads", 300)
    assert (decision.reason, decision.overage.meters) == (Reason.OVERAGE, (("requests", 200),))
    assert house.used() == 1200


def test_a_quota_in_shadow_reports_what_its_guarantees_would_have_refused() -> None:
    house = House(quota=replace(MONTHLY, shadow=True))
    assert decided(house, "", 300)[1].shadowed == ()
    _, decision = decided(house, "", 1)
    assert (decision.allowed, decision.shadowed) == (True, ("monthly",))
    _, decision = decided(house, "", 900)
    assert decision.shadowed == ("monthly",)


def test_a_critical_request_beyond_the_guarantees_has_the_reason_critical() -> None:
    house = House()
    house.call("", 300)
    entitlement = replace(PLAIN, claims=house.claims("", 1, forced=True))
    decision = decide(entitlement, house.call("", 1, forced=True))
    assert (decision.allowed, decision.reason) == (True, Reason.CRITICAL)


def test_thresholds_belong_to_the_account() -> None:
    house = House(quota=replace(MONTHLY, notices=(80,)))
    house.call("search", 700)
    entitlement = replace(PLAIN, claims=house.claims("ads", 100))
    answer = house.call("ads", 100)
    assert [one.percent for one in decide(entitlement, answer).crossings] == [80]
    assert [one.limit.id for one in crossings_of(entitlement.claims, answer)] == ["monthly"]


# Entitlements.


def test_equal_requests_have_the_same_claims_object() -> None:
    of_team = TeamEntitlements()
    found = of_team.of(PLAIN, Key("k1", ACME, "ads"))
    assert of_team.of(PLAIN, Key("k2", ACME, "ads")) is found
    assert of_team.of(PLAIN, Key("k1", ACME)) is not found
    quota, share = found.claims
    assert (quota, share.cost) == (PLAIN.claims[0], 1)
    assert share.limit == team_share(MONTHLY, TEAMS, "ads")
    assert of_team.of(replace(PLAIN), Key("k1", ACME, "ads")) is not found


def test_only_quotas_of_the_account_are_shared() -> None:
    per_key = replace(MONTHLY, id="per-key", per="key")
    claims = (Claim(GUARD, 1, False), Claim(per_key, 1, False))
    found = TeamEntitlements().of(replace(PLAIN, claims=claims), Key("k1", ACME, "ads"))
    assert found.claims == claims


def test_a_key_has_a_team_only_if_the_account_has_teams() -> None:
    assert Key("k1", ACME, "ads").counted_team == "ads"
    assert Key("k1", Account("bea", "pro"), "ads").counted_team == ""


# Teams as they are kept in Redis.


def test_a_list_of_teams_is_read() -> None:
    assert read_teams("search=40%,ads=30%:keep") == TEAMS
    assert read_teams("") == ()
    assert [team.percent for team in read_teams("a=60%,b=40%")] == [60, 40]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("search", "write it like search=40%,ads=30%:keep"),
        ("search=0%", "is not a list of teams"),
        ("a=50%,b=51%", "guarantees 101% together"),
        ("a=1%,a=1%", "names a team twice"),
        (",".join(f"t{n}=1%" for n in range(MOST_TEAMS + 1)), "write at most 32"),
    ],
)
def test_an_invalid_list_of_teams_is_refused_with_a_remedy(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_teams(text)
