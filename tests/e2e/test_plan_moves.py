"""Accounts move to another plan during use: at once, at the end of a period, or on a date."""

import hashlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from sidecar.cli import run
from sidecar.core.kinds import MICRO
from sidecar.core.model import PlanChange
from sidecar.stores.admin import Admin
from tests.support.stage import Stage, StartStage, problem, status

PLANS = """
version: 1
downgrades: at_period_end
meters: {{requests: {{unit: request}}}}
routes: [{{id: rest, match: "/**"}}]
plans:
  none: {{limits: [{{id: per-second, meter: requests, rate: 100/s}}]}}
  free: {{limits: [{{id: monthly, meter: requests, quota: 2/month}}]}}
  pro: {{limits: [{{id: monthly, meter: requests, quota: 100/month}}]}}
accounts:
  - {{id: filed, plan: pro, then: {{plan: free, from: {day}}}, keys: [{{id: k1, sha256: {filed}}}]}}
"""


@pytest.fixture
async def here(stage: StartStage) -> Stage:
    return await stage()


async def live(here: Stage, day: datetime) -> None:
    digest = hashlib.sha256(b"filed").hexdigest()
    here.plans.write_text(PLANS.format(day=day.date().isoformat(), filed=digest))
    await here.app.keeper.reload()


def move(here: Stage, valkey_url: str, *words: str) -> int:
    return run(["accounts", "move", *words, "--plans", str(here.plans), "--redis", valkey_url])


@pytest.mark.parametrize(("days", "left"), [(2, 99), (-2, 1)])
async def test_an_account_of_the_plan_file_moves_on_its_day(
    here: Stage, days: int, left: int
) -> None:
    await live(here, datetime.now(UTC) + timedelta(days=days))
    answer = await here.call("GET", "/x", "filed")
    assert status(answer) == 200
    assert b'RateLimit: "monthly";r=%d;' % left in answer
    plan = (await here.events())[0]["data"]["plan"]
    assert plan == ("pro" if days > 0 else "free")


async def test_usage_stays_when_the_plan_changes(here: Stage, valkey_url: str) -> None:
    await live(here, datetime.now(UTC) + timedelta(days=2))
    with Admin(valkey_url, "qs") as admin:
        admin.set_account("acme2", plan="pro")
        _, secret = admin.create_key("acme2", random_bytes=lambda n: bytes(n))
        for _ in range(3):
            assert status(await here.call("GET", "/x", secret)) == 200
        admin.set_account("acme2", then=PlanChange("free", (time.time_ns() // 1000) - MICRO))
        here.app.directory.forget()  # as the change stream does
        refused = await here.call("GET", "/x", secret)
    assert status(refused) == 429
    assert problem(refused)["limit"]["used"] == 3
    assert problem(refused)["limit"]["limit"] == 2


async def test_a_downgrade_waits_for_the_end_of_the_period(
    here: Stage, valkey_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await live(here, datetime.now(UTC) + timedelta(days=2))
    with Admin(valkey_url, "qs") as admin:
        admin.set_account("acme2", plan="pro")
        assert move(here, valkey_url, "acme2", "free") == 0
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith("Account acme2 stays on plan pro until ")
        assert said.endswith("-01T00:00:00Z, then free.")
        known = admin.account("acme2")
        assert known is not None
        assert (known.plan, known.next_plan is not None and known.next_plan.plan) == ("pro", "free")
        # An account that has moved at once does not move again.
        assert move(here, valkey_url, "acme2", "none", "--when", "now") == 0
        known = admin.account("acme2")
        assert known is not None
        assert (known.plan, known.next_plan) == ("none", None)
        # An upgrade is immediate; the file delays downgrades only.
        assert move(here, valkey_url, "acme2", "pro") == 0
        assert capsys.readouterr().out.endswith("Account acme2 is on plan pro.\n")


@pytest.mark.parametrize("when", [(), ("--when", "now"), ("--when", "period-end")])
async def test_a_move_to_the_plan_of_the_account_changes_nothing_but_a_scheduled_move(
    here: Stage, valkey_url: str, capsys: pytest.CaptureFixture[str], when: tuple[str, ...]
) -> None:
    await live(here, datetime.now(UTC) + timedelta(days=2))
    with Admin(valkey_url, "qs") as admin:
        admin.set_account("acme2", plan="pro")
        assert move(here, valkey_url, "acme2", "pro", *when) == 0
        assert capsys.readouterr().out.splitlines()[-1] == (
            "Account acme2 is on plan pro already; nothing is changed."
        )
        assert move(here, valkey_url, "acme2", "free") == 0
        assert move(here, valkey_url, "acme2", "pro", *when) == 0
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith(
            "Account acme2 is on plan pro already; its move to plan free on "
        ) and said.endswith("-01T00:00:00Z is cancelled.")
        known = admin.account("acme2")
        assert known is not None and (known.plan, known.next_plan) == ("pro", None)
        # The plan of a move that is due is the account's plan.
        admin.set_account("acme2", then=PlanChange("free", admin.now_us() - MICRO))
        assert move(here, valkey_url, "acme2", "free", *when) == 0
        assert capsys.readouterr().out.endswith(
            "Account acme2 is on plan free already; nothing is changed.\n"
        )
        assert move(here, valkey_url, "acme2", "pro", "--when", "now") == 0
        assert capsys.readouterr().out.endswith("Account acme2 is on plan pro.\n")


async def test_a_date_is_today_or_later_in_the_zone_of_the_account(
    here: Stage, valkey_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await live(here, datetime.now(UTC) + timedelta(days=2))
    zone = ZoneInfo("Pacific/Kiritimati")  # UTC+14
    today = datetime.now(zone).date()
    past = (today - timedelta(days=1)).isoformat()
    with Admin(valkey_url, "qs") as admin:
        admin.set_account("acme2", plan="pro", timezone=zone.key)
        for plan in ("free", "pro"):
            assert move(here, valkey_url, "acme2", plan, "--when", past) == 2
            said = capsys.readouterr().err
            assert f'error: --when: "{past}" is in the past\n' in said
            assert f"try: write now, period-end or a date from {today} on\n" in said
        known = admin.account("acme2")
        assert known is not None and (known.plan, known.next_plan) == ("pro", None)
        assert move(here, valkey_url, "acme2", "free", "--when", today.isoformat()) == 0
        assert capsys.readouterr().out.endswith("Account acme2 is on plan free.\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("absent", "pro"), "account absent is not in Redis"),
        (("filed", "free"), "error: account filed is in the plan file\ntry: change its plan there"),
        (("acme2", "gold"), 'the plan file has no plan "gold"\ntry: write one of: none, free, pro'),
        (
            ("acme2", "free", "--when", "soon"),
            '--when: "soon" is not a time\ntry: write now, period-end or a date',
        ),
        (
            ("acme2", "free", "--when", "period-end"),
            "--when: plan none has no quota, and so no period end",
        ),
    ],
)
async def test_an_account_that_cannot_be_moved_is_an_error(
    here: Stage,
    valkey_url: str,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    await live(here, datetime.now(UTC) + timedelta(days=2))
    with Admin(valkey_url, "qs") as admin:
        admin.set_account("acme2", plan="none")
    assert move(here, valkey_url, *words) in (1, 2)
    assert said in capsys.readouterr().err


def test_the_example_sets_when_downgrades_apply(tmp_path: Path) -> None:
    wrong = tmp_path / "plans.yaml"
    wrong.write_text(PLANS.format(day="2026-12-32", filed="0" * 64))
    assert run(["check", str(wrong)]) == 1


async def test_a_move_on_a_date_is_at_midnight_of_the_account(
    here: Stage, valkey_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await live(here, datetime.now(UTC) + timedelta(days=2))
    with Admin(valkey_url, "qs") as admin:
        admin.set_account("acme2", plan="pro", timezone="America/New_York")
        assert move(here, valkey_url, "acme2", "free", "--when", "2999-01-15") == 0
        assert "until 2999-01-15T05:00:00Z, then free" in capsys.readouterr().out
