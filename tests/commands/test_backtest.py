"""backtest on real spools and real files."""

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
    """One a second."""
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


def test_it_says_who_would_be_refused_and_when(sidecar: Any, plans: Path, spool: Path) -> None:
    done = sidecar("backtest", plans, "--events", spool)
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 calls of 2 accounts, from 2026-11-23T08:30:00Z to 2026-11-23T08:30:04Z" in done.stdout
    assert "acme (recorded on pro): 5 calls, 2 refused (40 %)" in done.stdout
    assert (
        "monthly (quota): 2 calls refused, which would fit: 2 later; the longest wait is 8 days"
        in (done.stdout)
    )
    assert "monthly: runs out at 2026-11-23T08:30:02Z; at most 3 of 3 used in a period" in (
        done.stdout
    )
    assert "requests: 5 recorded, 3 now (-2)" in done.stdout
    assert "Plan legacy is not in the new file: oldco cannot be replayed." in done.stdout


def test_it_speaks_json(sidecar: Any, plans: Path, spool: Path) -> None:
    done = sidecar("backtest", plans, "--events", spool, "--account", "acme", "--json")
    told = json.loads(done.stdout)
    assert told["total"]["refused"] == 2
    assert told["total"]["accounts"] == 1
    (acme,) = told["accounts"]
    assert acme["quotas"][0]["runs_out"] == "2026-11-23T08:30:02Z"
    assert acme["units"]["requests"] == {"recorded": 5, "replayed": 3, "difference": -2}


def test_copies_of_an_event_are_one(sidecar: Any, plans: Path, spool: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped.jsonl"
    shipped.write_bytes(b"".join(path.read_bytes() for path in spool.rglob("*.jsonl")) * 2)
    done = sidecar("backtest", plans, "--events", spool, "--events", shipped, "--json")
    assert json.loads(done.stdout)["total"]["calls"] == 7


def test_broken_lines_are_named_and_passed_over(sidecar: Any, plans: Path, tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    lines = [json.dumps(event) for event in events(2)]
    file.write_text("\n".join([lines[0], '{"type": "api.request.v1"', lines[1], ""]))
    done = sidecar("backtest", plans, "--events", file)
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: {file}:2: no JSON")
    assert "2 calls of 1 account" in done.stdout
    assert "1 account for which nothing changes." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--account", "nobody"], 1, "there are no calls of account nobody in 2 files"),
        (["--events", "nowhere"], 2, "nowhere holds no events"),
    ],
)
def test_nothing_to_replay_is_a_sentence(
    sidecar: Any, plans: Path, spool: Path, arguments: list[str], code: int, said: str
) -> None:
    done = sidecar("backtest", plans, "--events", spool, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_plan_file_is_told_by_its_places(sidecar: Any, plans: Path, spool: Path) -> None:
    plans.write_text(PLANS.replace("3/month", "many"))
    done = sidecar("backtest", plans, "--events", spool)
    assert done.returncode == 2
    assert "new-plans.yaml:9:" in done.stderr


def test_ctrl_c_ends_it_with_130(spawn: Any, plans: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "endless.jsonl"
    os.mkfifo(pipe)
    process = spawn("backtest", plans, "--events", pipe)
    with process, pipe.open("wb") as writer:  # it reads now
        writer.write(json.dumps(events(1)[0]).encode() + b"\n")
        writer.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "Traceback" not in process.stderr.read()
