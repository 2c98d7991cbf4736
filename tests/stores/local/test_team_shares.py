"""Teams in local mode: each sidecar guarantees its part of each team's units, and charges later."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sidecar.core.counting.teams import team_share
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Claim, Team
from sidecar.core.shares import NEVER_SEEN, Snapshot, local_team_share
from tests.support.stores.local_stage import Sidecar, a_quota, a_sidecar, until_all_are_known, used
from tests.support.stores.wire_ends import Server, a_server

QUOTA = a_quota(100)
TEAMS = (Team("search", 40, lends=False), Team("ads", 30, lends=False))
SHARES = {team: team_share(QUOTA, TEAMS, team) for team in ("search", "ads", "")}


def claims(team: str, cost: int = 1) -> tuple[Claim, ...]:
    return Claim(QUOTA, cost, False), Claim(SHARES[team], cost, False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path) as running:
        yield running


@pytest.fixture
async def both(server: Server, tmp_path: Path) -> AsyncIterator[list[Sidecar]]:
    """Two sidecars that know 10 of the 40 units of team search as used, and 20 without a team.

    Of the 70 units that are left, 30 are guaranteed to each team, and 10 are free.
    """
    async with AsyncExitStack() as stack:
        two = [
            await stack.enter_async_context(a_sidecar(server.url, tmp_path / "journal"))
            for _ in range(2)
        ]
        await until_all_are_known(two)
        assert await two[0].request(*claims("search", 10))
        assert await two[0].request(*claims("", 20))
        for one in two:
            for team in SHARES:
                assert await one.request(*claims(team, 0))  # for a snapshot
        yield two


async def test_I1_each_sidecar_guarantees_its_part_to_each_team(
    server: Server, both: list[Sidecar]
) -> None:
    server.pause()
    for one in both:
        await one.until_local()
    first, second = both
    assert await first.requests(50, *claims("ads")) == 20  # 15 that are guaranteed, and 5 free ones
    assert await first.requests(50, *claims("search")) == 15
    assert await second.requests(50, *claims("")) == 5
    assert await second.requests(50, *claims("search")) == 15
    assert await second.requests(50, *claims("ads")) == 15
    server.go_on()
    for one in both:
        await one.until_back()
    assert used(server.url, QUOTA) == 100
    assert {team: used(server.url, share) for team, share in SHARES.items()} == {
        "search": 40, "ads": 35, "": 25
    }  # fmt: skip
    assert [await one.request(*claims("search")) for one in both] == [False, False]


async def test_a_team_whose_local_part_is_used_up_gets_no_decision(
    server: Server, both: list[Sidecar]
) -> None:
    server.pause()
    for one in both:
        await one.until_local()
    assert await both[0].requests(20, *claims("ads")) == 20
    assert await both[0].request(*claims("ads")) is None  # other sidecars may have units left


def test_a_guarantee_without_a_snapshot_counts_as_unused() -> None:
    snapshot = Snapshot(1, 10, 1_000, 31)
    part = local_team_share(SHARES["search"], snapshot, [NEVER_SEEN], 2, 500)
    assert (part.units, part.lends) == (15, False)
    assert [(one.team, one.units) for one in part.others] == [("ads", 15)]
    later = local_team_share(SHARES["search"], snapshot, [NEVER_SEEN], 2, 1_000)
    assert later.units == 20


def test_the_parts_together_do_not_exceed_the_quota() -> None:
    quota: QuotaLimit = a_quota(10)
    teams = tuple(Team(f"t{number}", 33) for number in range(3))
    share = team_share(quota, teams, "t0")
    for sidecars in range(1, 9):
        part = local_team_share(share, NEVER_SEEN, [NEVER_SEEN] * 2, sidecars, 0)
        assert (part.units + sum(one.units for one in part.others)) * sidecars <= quota.units
