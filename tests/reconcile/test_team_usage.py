"""Counters of teams and their events: equal at rest, or the difference explained and repaired."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.core.model import Pack
from sidecar.reconcile.differences import Verdict
from sidecar.reconcile.text_report import verdicts_of
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from tests.support.reconcile_stage import House, a_house, plans_text, told

STATE = keys.state("qs", "acme")
TEAMS = (
    "{id: acme, plan: pro,",
    "{id: acme, plan: pro, teams: {search: 40%, ads: {share: 30%, lend: false}},",
)


def with_teams(text: str) -> str:
    """k1 is of the team search, k2 of none."""
    assert TEAMS[0] in text
    text = text.replace(*TEAMS)
    head, _, tail = text.partition("teams: ")
    first, _, rest = tail.partition("}, {id: k2")
    return f"{head}teams: {first}, team: search}}, {{id: k2{rest}"


@pytest.fixture
async def teams(valkey_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(valkey_url, tmp_path, with_teams(plans_text())) as house:
        yield house


def rows(house: House) -> dict[str, Verdict]:
    return {
        one.row.field: one for one in verdicts_of(house.reconcile()) if one.row.account == "acme"
    }


async def test_I5_counters_of_teams_are_the_sums_of_their_events(teams: House) -> None:
    await teams.call("GET /", 3)
    await teams.call("GET /", 2, key="k2")
    await teams.call("POST /chat", 2, tokens=40)
    await teams.call("GET /dear", 1, status=503)  # refunded
    assert told(teams.reconcile()) == []
    found = rows(teams)
    assert found["t/monthly/search"].events == found["t/monthly/search"].counter == 5
    assert found["t/tokens/search"].counter == 80
    assert found["q/monthly"].counter == 7
    assert "t/monthly/" not in found


async def test_I5_packs_pay_for_the_account_and_not_for_a_team(teams: House) -> None:
    await teams.call("GET /", 34)
    with Admin(teams.url, "qs") as admin:
        account = teams.gate.book.accounts["acme"]
        admin.grant(account, Pack("boost", "monthly", "requests", 100, "month"), "order-1")
    await teams.call("GET /", 30)
    found = rows(teams)
    assert found["t/monthly/search"].counter == 64
    assert not found["t/monthly/search"].whys
    assert [str(why.kind) for why in found["q/monthly"].whys] == ["paid_by_grants"]


async def test_calls_of_a_team_in_flight_are_told_by_their_reservations(teams: House) -> None:
    await teams.admit("GET /dear")
    found = rows(teams)
    assert [str(why.kind) for why in found["t/monthly/search"].whys] == ["in_flight"]
    assert found["t/monthly/search"].counter == 5


async def test_what_a_team_has_lost_is_rebuilt_with_the_rest(teams: House) -> None:
    await teams.call("GET /", 9)
    await teams.call("GET /", 2, key="k2")
    teams.client.delete(STATE)
    lost = [line.split(", since")[0] for line in told(teams.reconcile()) if "LOST" in line]
    assert lost == [
        "acme monthly",
        "acme/k1 per-key",
        "acme/k2 per-key",
        "acme team search monthly",
    ]
    teams.rebuild()
    assert told(teams.reconcile()) == []
    assert rows(teams)["t/monthly/search"].counter == 9
    assert await teams.call("GET /", 60) == 50 - 11 - 15  # what is kept for ads


async def test_a_team_that_is_no_more_keeps_its_counter(teams: House) -> None:
    await teams.call("GET /", 3)
    teams.swap(plans_text())
    await teams.call("GET /", 1)
    assert told(teams.reconcile()) == []
    assert rows(teams)["t/monthly/search"].counter == 3
    assert rows(teams)["q/monthly"].counter == 4
