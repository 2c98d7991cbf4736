"""`sidecar backtest` on real spools and files."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.recorded_events import an_event, write_spool

PLANS = """
version: 1
meters: {requests: {unit: request}}
routes:
  - {id: rest, match: "/**"}
plans:
  pro:
    limits:
      - {id: monthly, meter: requests, quota: 3/month}
accounts:
  - {id: acme, plan: pro}
"""


def events(count: int, account: str = "acme", plan: str = "pro") -> list[dict[str, Any]]:
    """Events of `count` requests, one per second."""
    made = []
    for number in range(count):
        event = an_event("data.route", "rest") | {
            "id": f"{account}-{number}", "subject": account,
            "time": f"2026-11-23T08:30:{number:02d}.000Z",
        }  # fmt: skip
        event["data"] |= {"plan": plan, "usage": {"requests": 1}, "overage": {"requests": 0}}
        made.append(event)
    return made


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    path = tmp_path / "new-plans.yaml"
    path.write_text(PLANS)
    return path


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    write_spool(directory / "worker-0", events(5)[::2])
    write_spool(directory / "worker-1", [*events(5)[1::2], *events(2, "oldco", "legacy")])
    return directory


def test_it_reports_refusals_used_up_quotas_and_changed_units(
    sidecar: Any, plans: Path, spool: Path
) -> None:
    done = sidecar("backtest", plans, "--events", spool)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "7 requests of 2 accounts, from 2026-11-23T08:30:00Z to 2026-11-23T08:30:04Z" in done.stdout
    )
    assert "acme (recorded on pro): 5 requests, 2 refused (40 %)" in done.stdout
    assert (
        "monthly (quota): 2 requests refused; would fit: 2 later; longest wait: 8 days"
        in done.stdout
    )
    assert "monthly: used up at 2026-11-23T08:30:02Z; peak: 3 of 3 per period" in done.stdout
    assert "requests: 5 recorded, 3 replayed (-2)" in done.stdout
    assert "Plan legacy is not in the new file. Not replayed: oldco." in done.stdout


def test_it_prints_json(sidecar: Any, plans: Path, spool: Path) -> None:
    done = sidecar("backtest", plans, "--events", spool, "--account", "acme", "--json")
    document = json.loads(done.stdout)
    assert document["total"]["refused"] == 2
    assert document["total"]["accounts"] == 1
    (acme,) = document["accounts"]
    assert acme["quotas"][0]["used_up_at"] == "2026-11-23T08:30:02Z"
    assert acme["units"]["requests"] == {"recorded": 5, "replayed": 3, "difference": -2}


def test_copies_of_an_event_count_once(
    sidecar: Any, plans: Path, spool: Path, tmp_path: Path
) -> None:
    shipped = tmp_path / "shipped.jsonl"
    shipped.write_bytes(b"".join(path.read_bytes() for path in spool.rglob("*.jsonl")) * 2)
    done = sidecar("backtest", plans, "--events", spool, "--events", shipped, "--json")
    assert json.loads(done.stdout)["total"]["requests"] == 7


def test_broken_lines_are_reported_and_skipped(sidecar: Any, plans: Path, tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    lines = [json.dumps(event) for event in events(2)]
    file.write_text("\n".join([lines[0], '{"type": "api.request.v1"', lines[1], ""]))
    done = sidecar("backtest", plans, "--events", file)
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: {file}:2: not JSON")
    assert "2 requests of 1 account" in done.stdout
    assert "No change for 1 account." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--account", "unknown"], 1, "--events: no requests of account unknown in 2 files"),
        (["--events", "nowhere"], 2, "nowhere: contains no events"),
    ],
)
def test_nothing_to_replay_is_an_error(
    sidecar: Any, plans: Path, spool: Path, arguments: list[str], code: int, message: str
) -> None:
    done = sidecar("backtest", plans, "--events", spool, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_invalid_plan_file_is_reported_with_line_numbers(
    sidecar: Any, plans: Path, spool: Path
) -> None:
    plans.write_text(PLANS.replace("3/month", "many"))
    done = sidecar("backtest", plans, "--events", spool)
    assert done.returncode == 2
    assert "new-plans.yaml:9:" in done.stderr


def test_ctrl_c_ends_it_with_exit_code_130(spawn: Any, plans: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "endless.jsonl"
    os.mkfifo(pipe)
    process = spawn("backtest", plans, "--events", pipe)
    with process, pipe.open("wb") as writer:  # the command has opened the pipe
        writer.write(json.dumps(events(1)[0]).encode() + b"\n")
        writer.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "Traceback" not in process.stderr.read()
