"""Ids of events: repeated events of one fact are copies, events of two facts are not."""

from dataclasses import replace

import pytest

from sidecar.core.counting.teams import read_teams
from sidecar.core.events.build import notice_event, overage_event
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Key
from sidecar.core.reasons import Overage, ThresholdCrossing
from tests.support.builders import a_plan, a_quota, a_route, an_entitlement

END_US = 1_800_000_000_000_000


def notice(quota: QuotaLimit, key_id: str, percent: int = 80, end_us: int = END_US) -> str:
    """The id of a notice."""
    event = notice_event(
        source="/sidecar/test",
        time="2026-11-24T00:00:00.000Z",
        key=Key(key_id, Account("acme", "free")),
        entitlement=an_entitlement(a_plan(quota), a_route()),
        plan_version="sha256:ab",
        crossing=ThresholdCrossing(limit=quota, percent=percent, used=9, period_end_us=end_us),
    )
    assert event["data"].get("key") == (key_id if quota.per == "key" else None)
    return str(event["id"])


@pytest.mark.parametrize(("per", "alike"), [("account", True), ("key", False)])
def test_a_threshold_of_two_keys_is_one_notice_unless_the_limit_is_per_key(
    per: str, alike: bool
) -> None:
    quota = replace(a_quota(10), per=per)  # type: ignore[arg-type]
    assert (notice(quota, "k1") == notice(quota, "k2")) is alike
    assert notice(quota, "k1") == notice(quota, "k1")
    ids = {notice(quota, "k1", percent, end) for percent in (80, 90) for end in (END_US, 0)}
    assert len(ids) == 4


def test_an_overage_event_has_the_team_of_its_request() -> None:
    teams = read_teams("a=40%")
    for team, account_teams, expected in (("a", teams, "a"), ("", teams, None), ("a", (), None)):
        event = overage_event(
            source="/sidecar/test", time="2026-11-23T08:30:00Z",
            key=Key("k1", Account("acme", "free", teams=account_teams), team),
            entitlement=an_entitlement(a_plan(), a_route()), plan_version="sha256:x",
            overage=Overage((("requests", 2),), (("monthly", 2),)), request_id="r1",
            clock="redis", periods={},
        )  # fmt: skip
        assert event["data"].get("team") == expected
        assert event["id"] == "overage/r1"
