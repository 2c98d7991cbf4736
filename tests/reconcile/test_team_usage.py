"""Counters of teams and their events: equal at rest, or the difference explained and repaired."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.core.model import Pack
from sidecar.reconcile.differences import CounterComparison
from sidecar.reconcile.text_report import used_counters
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from tests.support.reconcile_stage import Stage, a_stage, difference_lines, plans_text

STATE = keys.state("qs", "acme")
TEAMS = (
    "{id: acme, plan: pro,",
    "{id: acme, plan: pro, teams: {search: 40%, ads: {share: 30%, lend: false}},",
)


def with_teams(text: str) -> str:
    """Plans in which k1 belongs to the team search, and k2 to no team."""
    assert TEAMS[0] in text
    text = text.replace(*TEAMS)
    head, _, tail = text.partition("teams: ")
    first, _, rest = tail.partition("}, {id: k2")
    return f"{head}teams: {first}, team: search}}, {{id: k2{rest}"


@pytest.fixture
async def teams(valkey_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_stage(valkey_url, tmp_path, with_teams(plans_text())) as stage:
        yield stage


def counters_by_field(stage: Stage) -> dict[str, CounterComparison]:
    return {
        one.usage.field: one
        for one in used_counters(stage.reconcile())
        if one.usage.account == "acme"
    }


async def test_I5_counters_of_teams_are_the_sums_of_their_events(teams: Stage) -> None:
    await teams.send("GET /", 3)
    await teams.send("GET /", 2, key="k2")
    await teams.send("POST /chat", 2, tokens=40)
    await teams.send("GET /dear", 1, status=503)  # refunded
    assert difference_lines(teams.reconcile()) == []
    counters = counters_by_field(teams)
    assert counters["t/monthly/search"].events == counters["t/monthly/search"].counter == 5
    assert counters["t/tokens/search"].counter == 80
    assert counters["q/monthly"].counter == 7
    assert "t/monthly/" not in counters


async def test_I5_packs_pay_for_the_account_and_not_for_a_team(teams: Stage) -> None:
    await teams.send("GET /", 34)
    with Admin(teams.url, "qs") as admin:
        account = teams.gate.book.accounts["acme"]
        admin.grant(account, Pack("boost", "monthly", "requests", 100, "month"), "order-1")
    await teams.send("GET /", 30)
    counters = counters_by_field(teams)
    assert counters["t/monthly/search"].counter == 64
    assert not counters["t/monthly/search"].causes
    assert [str(why.kind) for why in counters["q/monthly"].causes] == ["paid_by_grants"]


async def test_open_reservations_explain_requests_of_a_team_in_flight(teams: Stage) -> None:
    await teams.admit("GET /dear")
    counters = counters_by_field(teams)
    assert [str(why.kind) for why in counters["t/monthly/search"].causes] == ["in_flight"]
    assert counters["t/monthly/search"].counter == 5


async def test_lost_units_of_a_team_are_rebuilt_too(teams: Stage) -> None:
    await teams.send("GET /", 9)
    await teams.send("GET /", 2, key="k2")
    teams.client.delete(STATE)
    lost = [
        line.split(", since")[0] for line in difference_lines(teams.reconcile()) if "LOST" in line
    ]
    assert lost == [
        "acme monthly",
        "acme/k1 per-key",
        "acme/k2 per-key",
        "acme team search monthly",
    ]
    teams.rebuild()
    assert difference_lines(teams.reconcile()) == []
    assert counters_by_field(teams)["t/monthly/search"].counter == 9
    assert await teams.send("GET /", 60) == 50 - 11 - 15  # minus the guarantee of ads


async def test_a_removed_team_keeps_its_counter(teams: Stage) -> None:
    await teams.send("GET /", 3)
    teams.reload(plans_text())
    await teams.send("GET /", 1)
    assert difference_lines(teams.reconcile()) == []
    assert counters_by_field(teams)["t/monthly/search"].counter == 3
    assert counters_by_field(teams)["q/monthly"].counter == 4
