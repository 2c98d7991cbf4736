"""`sidecar explain --request-id` finds a request in the spool, in a sink's file, and in the log."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from sidecar.explain.past import PastRequest
from tests.support.commands import Run
from tests.support.processes import Serving, StartServing, serving, until
from tests.support.stage import StartStage, stage

__all__ = ["serving", "stage"]
CONSOLE = "019bd2e0-4c1f-7a10-9c4e-000000000000"
UNKNOWN = "019bd2e0-4c1f-7a10-9c4e-2f9f3a1b5c6d"


async def refused_and_allowed(
    serving: StartServing, stage: StartStage, tmp_path: Path, **flags: Any
) -> tuple[Serving, str, str]:
    """A sidecar that has refused one request and forwarded another, and their IDs."""
    api = (await stage()).upstream.port
    one = await serving(
        upstream=f"http://127.0.0.1:{api}", access_log=True, sinks=f"file:{tmp_path / 'sink'}",
        **flags,
    )  # fmt: skip
    _, refusal = await one.call("/bulk/1")
    await one.call("/items")
    await until(lambda: len(one.said("request_ended")) == 2)
    return one, json.loads(refusal)["request_id"], one.said("request_ended")[-1]["request_id"]


async def test_a_forwarded_request_is_found_in_the_spool_and_in_the_file_of_a_sink(
    serving: StartServing, stage: StartStage, sidecar: Run, tmp_path: Path
) -> None:
    one, _, allowed = await refused_and_allowed(serving, stage, tmp_path)
    await until(lambda: (tmp_path / "sink").exists() and allowed in (tmp_path / "sink").read_text())
    for flags in (["--spool", one.spool], ["--events", tmp_path / "sink"]):
        done = sidecar("explain", "--request-id", allowed, *flags)
        assert done.returncode == 0, done.stderr
        assert f"request   {allowed}, received 20" in done.stdout
        assert "account   acme (API key k1)" in done.stdout
        assert "route     rest" in done.stdout
        assert re.search(
            r"decision  allowed; it ended as ok with status 200 after \d+ ms", done.stdout
        )
        assert "usage     requests 1" in done.stdout
    in_spool = sidecar("explain", "--request-id", allowed, "--spool", one.spool)
    shown = re.search(r"its file: sidecar (plans show .*)", in_spool.stdout)
    assert shown is not None
    assert "plans:" in sidecar(*shlex.split(shown[1])).stdout
    both = sidecar(
        "explain", "--json", "--request-id", allowed.replace("-", ""),  # as in a trace
        "--spool", one.spool, "--events", tmp_path / "sink",
    )  # fmt: skip
    assert [event["id"] for event in json.loads(both.stdout)["events"]] == [allowed]


async def test_a_refused_request_is_found_in_the_log_and_as_an_event(
    serving: StartServing, stage: StartStage, sidecar: Run, tmp_path: Path
) -> None:
    one, refused, _ = await refused_and_allowed(serving, stage, tmp_path, refusal_events=True)
    log = tmp_path / "log"
    log.write_text("not JSON " + refused + "\n" + "\n".join(map(json.dumps, one.log)) + "\n")
    done = sidecar("explain", "--request-id", refused, "--spool", one.spool, "--log", log)
    assert done.returncode == 0, done.stderr
    assert "decision  refused: 403 missing-feature" in done.stdout
    assert "request_ended" in done.stdout
    assert "reason missing-feature" in done.stdout
    found = sidecar("explain", "--json", "--request-id", refused, "--log", log)
    [line] = json.loads(found.stdout)["log"]
    assert (line["status"], line["account"]) == (403, "acme")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--request-id", "42", "--log", "{log}"], 2, '"42" is not a request ID; take it from'),
        (["--request-id", UNKNOWN, "--log", "{log}"], 1, "is not in these files; a refused"),
        (["--request-id", CONSOLE, "--log", "{log}"], 1, "only in lines that are not JSON; start"),
        (["--request-id", UNKNOWN, "--log", "/nowhere"], 1, "--log: /nowhere does not exist"),
        (["--request-id", UNKNOWN, "--spool", "/nowhere"], 2, "/nowhere: contains no events"),
        (["--request-id", UNKNOWN, "GET", "/"], 2, "give one of --request-id and METHOD /PATH"),
        (["--log", "{log}", "GET", "/"], 2, "--spool, --events and --log: need --request-id"),
        ([], 2, "METHOD and /PATH: missing; write them like GET /v1/items"),
        (["GET"], 2, "METHOD and /PATH: missing"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(
    sidecar: Run, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    log = tmp_path / "log"
    lines = ['{"event": "request_ended", "request_id": "other"}', f"info request_ended {CONSOLE}"]
    log.write_text("\n".join(lines) + "\n")
    done = sidecar("explain", *(one.format(log=log) for one in arguments))
    assert done.returncode == code
    assert message in done.stderr.replace("\n  try: ", "; ").replace("\ntry: ", "; ")
    assert "Traceback" not in done.stderr


def test_the_time_in_an_id_is_that_of_its_request() -> None:
    assert PastRequest(UNKNOWN).received_at == "2026-01-18T20:51:13.567Z"
