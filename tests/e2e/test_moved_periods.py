"""Usage stays in a running sidecar when zone, plan, period or meter change, as in these cases."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from sidecar.cli import run
from sidecar.stores.admin import Admin
from tests.support.stage import Stage, StartStage, problem, status

PLANS = """
version: 1
meters: {{requests: {{unit: request}}, tokens: {{unit: token}}}}
routes: [{{id: rest, match: "/**", cost: {{requests: 1, tokens: 500}}}}]
plans:
  builder: {{limits: [{{id: monthly, meter: {meter}, quota: {quota}}}]}}
  pro: {{limits: [{{id: monthly, meter: {meter}, quota: 1000/cycle}}]}}
accounts:
  - {{id: filed, plan: builder, keys: [{{id: k1, sha256: {digest}}}]}}
"""
SPENT = [200] * 5 + [429]


@pytest.fixture
async def here(stage: StartStage) -> Stage:
    return await stage()


@pytest.fixture
def admin(valkey_url: str) -> Iterator[Admin]:
    with Admin(valkey_url, "qs") as one:
        yield one


async def live(here: Stage, quota: str = "5/month", meter: str = "requests") -> None:
    digest = hashlib.sha256(b"filed").hexdigest()
    here.plans.write_text(PLANS.format(quota=quota, meter=meter, digest=digest))
    await here.app.keeper.reload()


async def answers(here: Stage, number: int, key: str = "filed") -> list[int]:
    return [status(await here.call("GET", "/x", key)) for _ in range(number)]


async def reconciled(here: Stage, valkey_url: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `sidecar reconcile` prints; its exit code is 0."""
    await here.events()
    where = ["--plans", str(here.plans), "--spool", str(here.spool), "--redis", valkey_url]
    assert run(["reconcile", *where, "--wait", "0"]) == 0
    return capsys.readouterr().out


async def test_I13_03_time_zone_resets_the_month(
    here: Stage, admin: Admin, valkey_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await live(here)
    admin.set_account("west", plan="builder")
    _, key = admin.create_key("west", random_bytes=lambda n: bytes(n))
    assert await answers(here, 6, key) == SPENT
    for zone in ("America/New_York", "Pacific/Honolulu", "Asia/Tokyo", "Pacific/Kiritimati"):
        admin.set_account("west", timezone=zone)
        here.app.directory.forget()  # as the change stream does
        assert await answers(here, 2, key) == [429, 429], zone
    assert "1 equal, 0 explained, 0 unexplained" in await reconciled(here, valkey_url, capsys)


async def test_I13_05_plan_move_resets_the_month(
    here: Stage, admin: Admin, valkey_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await live(here)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    admin.set_account("mover", plan="builder", anchor=date(2026, 1, yesterday.day))
    _, key = admin.create_key("mover", random_bytes=lambda n: bytes(n))
    assert await answers(here, 6, key) == SPENT
    for plan, expected in (("pro", 200), ("builder", 429), ("pro", 200), ("builder", 429)):
        admin.set_account("mover", plan=plan)
        here.app.directory.forget()
        assert await answers(here, 1, key) == [expected]
    refused = problem(await here.call("GET", "/x", key))
    assert (refused["limit"]["used"], refused["limit"]["limit"]) == (7, 5)
    assert "1 equal, 0 explained, 0 unexplained" in await reconciled(here, valkey_url, capsys)


async def test_I13_12_unit_change_under_one_id(here: Stage) -> None:
    await live(here, "100000/month", "tokens")
    assert await answers(here, 10) == [200] * 10
    await live(here, "1000/month")
    answer = await here.call("GET", "/x", "filed")
    assert status(answer) == 200
    assert b'RateLimit: "monthly";r=999;' in answer
    await live(here, "100000/month", "tokens")
    assert b'RateLimit: "monthly";r=94500;' in await here.call("GET", "/x", "filed")


@pytest.mark.parametrize("between", ["5/hour", "5/day", "5/90s"])
async def test_I13_22_period_edited_to_and_fro(here: Stage, between: str) -> None:
    await live(here, "7/month")
    assert await answers(here, 5) == [200] * 5
    await live(here, between)
    assert await answers(here, 1) == [200]
    await live(here, "7/month")
    assert await answers(here, 3) == [200, 429, 429]
