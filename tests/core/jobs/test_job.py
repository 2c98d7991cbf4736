"""Which claimed jobs run, when an account is due again, and the JSON documents of a job."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.core.jobs.document import job_document, result_document
from sidecar.core.jobs.job import (
    MAX_TRIES,
    RECHECK_US,
    ClaimedJob,
    Delivery,
    Job,
    JobFailure,
    JobResult,
    JobState,
    may_run,
    next_check_us,
)
from sidecar.core.kinds import MICRO

JOB = Job("0199", "acme", "k1", b"\x01" * 32, "at-least-once", "POST", b"/x?y=%20")
DOCS = Path(__file__).parents[3] / "docs" / "reference" / "jobs.md"
NOW = 1_796_083_200 * MICRO


@pytest.mark.parametrize(
    ("delivery", "orphan", "tries", "runs"),
    [
        ("at-least-once", False, 1, True),
        ("at-most-once", False, 1, True),
        ("at-most-once", True, 2, False),
        ("at-least-once", True, 2, True),
        ("at-least-once", True, MAX_TRIES, True),
        ("at-least-once", True, MAX_TRIES + 1, False),
    ],
)
def test_a_job_whose_sidecar_died_runs_again_up_to_its_bound(
    delivery: Delivery, orphan: bool, tries: int, runs: bool
) -> None:
    job = replace(JOB, delivery=delivery, tries=tries)
    assert may_run(ClaimedJob(job, orphan)) is runs


def test_an_account_is_due_when_its_limit_recovers_and_at_least_every_five_minutes() -> None:
    assert next_check_us(17) == 17
    assert next_check_us(-1) == 0
    assert next_check_us(30 * 86_400 * MICRO) == RECHECK_US == 300 * MICRO


def test_position_and_eta_are_null_unless_the_job_waits() -> None:
    waits = job_document(replace(JOB, accepted_us=NOW), "/-/jobs/0199", 3, NOW + 1)
    assert (waits["position"], waits["eta"]) == (3, "2026-12-01T00:00:01Z")
    assert (waits["accepted_at"], waits["started_at"]) == ("2026-12-01T00:00:00.000Z", None)
    exact = job_document(replace(JOB, accepted_us=NOW + 7_999, ended_us=NOW - 1), "/-/jobs/0199")
    assert exact["accepted_at"] == "2026-12-01T00:00:00.007Z"
    assert exact["ended_at"] == "2026-11-30T23:59:59.999Z"
    assert (waits["target"], waits["reason"]) == ("/x?y=%20", None)
    runs = job_document(replace(JOB, state=JobState.RUNNING), "/-/jobs/0199", 1, NOW)
    assert (runs["position"], runs["eta"]) == (None, None)
    assert JOB.digest.hex() not in str(waits)


def test_a_response_body_is_text_or_else_base64() -> None:
    fields = ((b"x-a", b"X-A: 1\r\n"), (b"x-a", b"X-A:  2 \r\n"), (b"etag", b'ETag: "\xe9"\r\n'))
    text = result_document(JobResult(200, fields, "né".encode()))
    assert text["headers"] == {"x-a": ["1", "2"], "etag": ['"é"']}
    assert (text["body"], text["body_encoding"], text["status"]) == ("né", "utf-8", 200)
    raw = result_document(JobResult(200, (), b"\xff", truncated=True))
    assert (raw["body"], raw["body_encoding"], raw["truncated"]) == ("/w==", "base64", True)


def test_every_state_and_every_end_is_documented() -> None:
    rows = [line.split("|")[1] for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    written = set(re.findall(r"`([\w-]+)`", "".join(rows)))
    assert {*JobState, *JobFailure} <= written
