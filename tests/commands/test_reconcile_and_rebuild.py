"""reconcile and rebuild as people run them: on a real Valkey and real spools."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.stores import keys
from tests.support.reconcile_stage import House, a_house

STATE = keys.state("qs", "acme")


@pytest.fixture
async def house(valkey_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(valkey_url, tmp_path) as one:
        yield one


def options(house: House, *more: object) -> list[object]:
    return ["--plans", house.plans, "--spool", house.spool_at, "--redis", house.url, "--wait", 0,
            *more]  # fmt: skip


async def test_I5_equal_counters_are_said_to_be_so(sidecar: Any, house: House) -> None:
    await house.call("GET /", 3)
    await house.call("GET /dear", status=500)
    done = sidecar("reconcile", *options(house))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "2 counters of 1 account: 2 equal, 0 explained, 0 different.",
        "10 units of refunded calls count on neither side.",
        "Rates and concurrency are not compared: they are not sums of events.",
    ]


async def test_what_is_explained_is_no_failure(sidecar: Any, house: House) -> None:
    await house.admit("GET /dear")
    done = sidecar("reconcile", *options(house))
    assert done.returncode == 0
    assert "acme monthly, since" in done.stdout
    assert "counter 5, events 0: +5 reserved by 1 call that is not over" in done.stdout
    assert "2 counters of 1 account: 0 equal, 2 explained, 0 different." in done.stdout


async def test_a_difference_that_is_left_is_exit_code_1_and_tells_what_helps(
    sidecar: Any, house: House
) -> None:
    await house.call("GET /", 3)
    house.client.flushdb()
    done = sidecar("reconcile", *options(house))
    assert done.returncode == 1
    assert "acme/k1 per-key, since" in done.stdout
    assert "-3 LOST" in done.stdout
    assert "sidecar rebuild --apply" in done.stdout


async def test_events_that_were_not_given_are_told_by_their_numbers(
    sidecar: Any, house: House
) -> None:
    await house.call("GET /", 5)
    (segment,) = house.spool_at.glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:1] + lines[3:]))
    done = sidecar("reconcile", *options(house))
    assert done.returncode == 1
    assert f"Not given: spool {house.spool.spool_id}: events 2 to 3." in done.stdout
    shipped = house.spool_at.parent / "usage.jsonl"
    shipped.write_bytes(b"".join(lines[:3]))
    assert sidecar("reconcile", *options(house, "--events", shipped)).returncode == 0


async def test_reconcile_speaks_json(sidecar: Any, house: House) -> None:
    await house.call("GET /", 2)
    await house.call("GET /", 2, account="fred")
    house.client.hdel(STATE, "q/monthly")
    done = sidecar("reconcile", *options(house, "--json"))
    told = json.loads(done.stdout)
    assert (done.returncode, told["equal"], told["explained"], told["different"]) == (1, 2, 0, 1)
    rows = {(one["account"], one["limit"]): one for one in told["counters"]}
    monthly = rows["acme", "monthly"]
    assert (monthly["counter"], monthly["events"], monthly["difference"]) == (0, 2, -2)
    assert monthly["why"] == [{"kind": "lost", "units": -2, "calls": None}]
    assert (monthly["status"], rows["fred", "monthly"]["status"]) == ("different", "equal")
    assert told["not_compared"] == ["rates", "concurrency"]


async def test_rebuild_says_what_it_would_do_and_does_it_when_told(
    sidecar: Any, house: House
) -> None:
    await house.call("GET /", 3, account="fred")
    house.client.flushdb()
    dry = sidecar("rebuild", *options(house))
    assert dry.returncode == 1
    assert ": 0 → 3 (+3 units)" in dry.stdout
    assert "1 counter to rebuild. Nothing was changed: do it with --apply." in dry.stdout
    assert house.client.dbsize() == 0
    done = sidecar("rebuild", *options(house, "--apply"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 counter rebuilt.\n")
    assert sidecar("reconcile", *options(house)).returncode == 0
    again = sidecar("rebuild", *options(house, "--apply"))
    assert again.returncode == 0
    assert again.stdout == "Nothing to rebuild: no counter is lower than its events.\n"


async def test_rebuild_speaks_json(sidecar: Any, house: House) -> None:
    await house.call("GET /", 3, account="fred")
    house.client.flushdb()
    told = json.loads(sidecar("rebuild", *options(house, "--apply", "--json")).stdout)
    (change,) = told["changes"]
    assert (told["applied"], change["account"], change["limit"]) == (True, "fred", "monthly")
    assert (change["before"], change["after"]) == (0, 3)


async def test_lowering_has_to_be_wanted(sidecar: Any, house: House) -> None:
    await house.call("GET /", 3, account="fred")
    (segment,) = house.spool_at.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().splitlines(keepends=True)[0])
    assert "Nothing to rebuild" in sidecar("rebuild", *options(house, "--apply")).stdout
    lowered = sidecar("rebuild", *options(house, "--apply", "--lower"))
    assert ": 3 → 1 (-2 units)" in lowered.stdout
    assert sidecar("reconcile", *options(house)).returncode == 0


@pytest.mark.parametrize("verb", ["reconcile", "rebuild"])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--redis", "redis://u:hunter2@127.0.0.1:1/0"], "error: Redis is unavailable"),
        (["--spool", "nowhere"], "nowhere holds no events"),
        (["--plans", "nowhere.yaml"], "nowhere.yaml"),
        (["--former-plans", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
async def test_what_cannot_be_looked_at_is_exit_code_2(
    sidecar: Any, house: House, verb: str, changed: list[str], said: str
) -> None:
    done = sidecar(verb, *options(house), *changed)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


async def test_a_broken_line_is_named(sidecar: Any, house: House) -> None:
    await house.call("GET /", 2)
    file = house.spool_at.parent / "usage.jsonl"
    file.write_text("{oops\n")
    done = sidecar("reconcile", *options(house, "--events", file))
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: {file}:1: no JSON")


async def test_the_spool_is_the_setting_when_nothing_is_named(sidecar: Any, house: House) -> None:
    await house.call("GET /", 2)
    done = sidecar(
        "reconcile", "--wait", 0, SIDECAR_SPOOL=str(house.spool_at), SIDECAR_REDIS=house.url,
        SIDECAR_PLANS=str(house.plans),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
