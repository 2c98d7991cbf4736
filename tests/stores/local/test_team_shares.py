"""Teams while Redis is gone: each sidecar keeps its part for each team, and charges it later."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sidecar.core.model import Claim, QuotaLimit, Team
from sidecar.core.shares import NEVER_SEEN, Snapshot, team_share_of
from sidecar.core.teams import shares_of
from tests.support.stores.local_stage import Sidecar, a_quota, a_sidecar, all_know_each_other, used
from tests.support.stores.wire_ends import Server, a_server

QUOTA = a_quota(100)
TEAMS = (Team("search", 40, lends=False), Team("ads", 30, lends=False))
SHARES = {team: shares_of(QUOTA, TEAMS, team) for team in ("search", "ads", "")}


def calls(team: str, cost: int = 1) -> tuple[Claim, ...]:
    return Claim(QUOTA, cost, False), Claim(SHARES[team], cost, False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path) as running:
        yield running


@pytest.fixture
async def both(server: Server, tmp_path: Path) -> AsyncIterator[list[Sidecar]]:
    """Two sidecars that have seen the team search use 10 of its 40, and 20 more used by nobody's
    keys: of 70 that are left 30 are kept for each team, and 10 are free."""
    async with AsyncExitStack() as stack:
        two = [
            await stack.enter_async_context(a_sidecar(server.url, tmp_path / "journal"))
            for _ in range(2)
        ]
        await all_know_each_other(two)
        assert await two[0].call(*calls("search", 10))
        assert await two[0].call(*calls("", 20))
        for one in two:
            for team in SHARES:
                assert await one.call(*calls(team, 0))  # a look
        yield two


async def test_I1_each_sidecar_keeps_its_part_for_each_team(
    server: Server, both: list[Sidecar]
) -> None:
    server.pause()
    for one in both:
        await one.until_alone()
    first, second = both
    assert await first.calls(50, *calls("ads")) == 20  # 15 kept here, and 5 that are free
    assert await first.calls(50, *calls("search")) == 15
    assert await second.calls(50, *calls("")) == 5
    assert await second.calls(50, *calls("search")) == 15
    assert await second.calls(50, *calls("ads")) == 15
    server.go_on()
    for one in both:
        await one.until_back()
    assert used(server.url, QUOTA) == 100
    assert {team: used(server.url, share) for team, share in SHARES.items()} == {
        "search": 40, "ads": 35, "": 25
    }  # fmt: skip
    assert [await one.call(*calls("search")) for one in both] == [False, False]


async def test_a_team_whose_part_is_used_up_is_not_told_that_its_share_is(
    server: Server, both: list[Sidecar]
) -> None:
    server.pause()
    for one in both:
        await one.until_alone()
    assert await both[0].calls(20, *calls("ads")) == 20
    assert await both[0].call(*calls("ads")) is None  # nobody can tell


def test_what_was_not_looked_at_counts_as_kept() -> None:
    seen = Snapshot(1, 10, 1_000, 31)
    part = team_share_of(SHARES["search"], seen, [NEVER_SEEN], 2, 500)
    assert (part.units, part.lends) == (15, False)
    assert [(one.team, one.units) for one in part.others] == [("ads", 15)]
    later = team_share_of(SHARES["search"], seen, [NEVER_SEEN], 2, 1_000)
    assert later.units == 20


def test_parts_are_never_more_than_the_whole() -> None:
    quota: QuotaLimit = a_quota(10)
    teams = tuple(Team(f"t{number}", 33) for number in range(3))
    share = shares_of(quota, teams, "t0")
    for ways in range(1, 9):
        part = team_share_of(share, NEVER_SEEN, [NEVER_SEEN] * 2, ways, 0)
        assert (part.units + sum(one.units for one in part.others)) * ways <= quota.units
