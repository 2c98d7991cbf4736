"""`sidecar reconcile` and `sidecar rebuild` on a real Valkey and real spools."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.stores import keys
from tests.support.reconcile_stage import Stage, a_stage

STATE = keys.state("qs", "acme")


@pytest.fixture
async def stage(valkey_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_stage(valkey_url, tmp_path) as one:
        yield one


def options(stage: Stage, *more: object) -> list[object]:
    return ["--plans", stage.plans, "--spool", stage.spool_path, "--redis", stage.url, "--wait", 0,
            *more]  # fmt: skip


async def test_I5_equal_counters_are_reported_as_equal(sidecar: Any, stage: Stage) -> None:
    await stage.send("GET /", 3)
    await stage.send("GET /dear", status=500)
    done = sidecar("reconcile", *options(stage))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "2 counters of 1 account: 2 equal, 0 explained, 0 unexplained.",
        "10 units of refunded requests count on neither side.",
        "Rates and concurrency are not compared: they are not sums of events.",
    ]


async def test_explained_differences_have_exit_code_0(sidecar: Any, stage: Stage) -> None:
    await stage.admit("GET /dear")
    done = sidecar("reconcile", *options(stage))
    assert done.returncode == 0
    assert "acme monthly, since" in done.stdout
    assert "counter 5, events 0: +5 reserved by 1 request in flight" in done.stdout
    assert "2 counters of 1 account: 0 equal, 2 explained, 0 unexplained." in done.stdout


async def test_an_unexplained_difference_has_exit_code_1_and_a_remedy(
    sidecar: Any, stage: Stage
) -> None:
    await stage.send("GET /", 3)
    stage.client.flushdb()
    done = sidecar("reconcile", *options(stage))
    assert done.returncode == 1
    assert "acme/k1 per-key, since" in done.stdout
    assert "-3 LOST" in done.stdout
    assert "sidecar rebuild --apply" in done.stdout


async def test_missing_events_are_listed_by_number(sidecar: Any, stage: Stage) -> None:
    await stage.send("GET /", 5)
    (segment,) = stage.spool_path.glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:1] + lines[3:]))
    done = sidecar("reconcile", *options(stage))
    assert done.returncode == 1
    assert f"Not read: spool {stage.spool.spool_id}: events 2 to 3." in done.stdout
    shipped = stage.spool_path.parent / "usage.jsonl"
    shipped.write_bytes(b"".join(lines[:3]))
    assert sidecar("reconcile", *options(stage, "--events", shipped)).returncode == 0


async def test_reconcile_prints_json(sidecar: Any, stage: Stage) -> None:
    await stage.send("GET /", 2)
    await stage.send("GET /", 2, account="fred")
    stage.client.hdel(STATE, "q/monthly")
    done = sidecar("reconcile", *options(stage, "--json"))
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert (document["equal"], document["explained"], document["unexplained"]) == (2, 0, 1)
    counters = {(one["account"], one["limit"]): one for one in document["counters"]}
    monthly = counters["acme", "monthly"]
    assert (monthly["counter"], monthly["events"], monthly["difference"]) == (0, 2, -2)
    assert monthly["causes"] == [{"kind": "lost", "units": -2, "requests": None}]
    assert (monthly["status"], counters["fred", "monthly"]["status"]) == ("unexplained", "equal")
    assert document["not_compared"] == ["rates", "concurrency"]


async def test_rebuild_prints_its_changes_and_makes_them_with_apply(
    sidecar: Any, stage: Stage
) -> None:
    await stage.send("GET /", 3, account="fred")
    stage.client.flushdb()
    dry = sidecar("rebuild", *options(stage))
    assert dry.returncode == 1
    assert ": 0 → 3 (+3 units)" in dry.stdout
    assert "1 counter to rebuild. Nothing was changed: add --apply to rebuild." in dry.stdout
    assert stage.client.dbsize() == 0
    done = sidecar("rebuild", *options(stage, "--apply"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 counter rebuilt.\n")
    assert sidecar("reconcile", *options(stage)).returncode == 0
    again = sidecar("rebuild", *options(stage, "--apply"))
    assert again.returncode == 0
    assert again.stdout == "Nothing to rebuild: no counter is lower than its events.\n"


async def test_rebuild_prints_json(sidecar: Any, stage: Stage) -> None:
    await stage.send("GET /", 3, account="fred")
    stage.client.flushdb()
    document = json.loads(sidecar("rebuild", *options(stage, "--apply", "--json")).stdout)
    (change,) = document["changes"]
    assert (document["applied"], change["account"], change["limit"]) == (True, "fred", "monthly")
    assert (change["before"], change["after"]) == (0, 3)


async def test_counters_are_lowered_only_with_lower(sidecar: Any, stage: Stage) -> None:
    await stage.send("GET /", 3, account="fred")
    (segment,) = stage.spool_path.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().splitlines(keepends=True)[0])
    assert "Nothing to rebuild" in sidecar("rebuild", *options(stage, "--apply")).stdout
    lowered = sidecar("rebuild", *options(stage, "--apply", "--lower"))
    assert ": 3 → 1 (-2 units)" in lowered.stdout
    assert sidecar("reconcile", *options(stage)).returncode == 0


@pytest.mark.parametrize("command", ["reconcile", "rebuild"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--redis", "redis://u:hunter2@127.0.0.1:1/0"], "127.0.0.1:1 refuses connections"),
        (["--spool", "nowhere"], "nowhere: contains no events"),
        (["--plans", "nowhere.yaml"], "nowhere.yaml"),
        (["--former-plans", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
async def test_an_unreadable_input_has_exit_code_2(
    sidecar: Any, stage: Stage, command: str, arguments: list[str], message: str
) -> None:
    done = sidecar(command, *options(stage), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


async def test_a_broken_line_is_reported(sidecar: Any, stage: Stage) -> None:
    await stage.send("GET /", 2)
    file = stage.spool_path.parent / "usage.jsonl"
    file.write_text("{oops\n")
    done = sidecar("reconcile", *options(stage, "--events", file))
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: {file}:1: not JSON")


async def test_without_options_the_spool_is_that_of_the_settings(
    sidecar: Any, stage: Stage
) -> None:
    await stage.send("GET /", 2)
    done = sidecar(
        "reconcile", "--wait", 0, SIDECAR_SPOOL=str(stage.spool_path), SIDECAR_REDIS=stage.url,
        SIDECAR_PLANS=str(stage.plans),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
