"""`sidecar jobs` with a real Valkey."""

import asyncio
import base64
import json
from typing import Any

import pytest

from sidecar.core.jobs.job import AcceptedJob, Job, JobRequest
from sidecar.core.jobs.webhook_signing import account_secret, parse_secret
from sidecar.serve.parts import workload_of
from sidecar.settings import Settings
from sidecar.stores import Wire
from sidecar.stores.job_terms import JobTerms
from sidecar.stores.jobs import RedisJobs

REQUEST = JobRequest("POST", b"/exports/1?token=hush", b"a.test", "10.0.0.1", (), b"body")
SOURCE = "/sidecar/prod/shop"


def put(url: str, job_id: str, source: str) -> None:
    """Queue a job as a sidecar with this source does."""
    settings = Settings.load({"plans": "p.yaml", "upstream": "http://a", "source": source})
    job = Job(
        id=job_id, account="acme", key="k1", digest=b"\x01" * 32, delivery="at-least-once",
        method=REQUEST.method, target=REQUEST.target, request=REQUEST,
    )  # fmt: skip

    async def add() -> None:
        wire = Wire(url, timeout_s=10)
        await wire.start()
        store = RedisJobs(wire, "qs", workload_of(settings), JobTerms())
        assert await store.add(job, None, due_in_us=0) == AcceptedJob(job_id)
        await wire.stop()

    asyncio.run(add())


def test_jobs_are_listed_shown_and_cancelled(sidecar: Any, valkey_url: str) -> None:
    where = {"SIDECAR_REDIS": valkey_url, "SIDECAR_SOURCE": SOURCE}
    put(valkey_url, "0199-1", SOURCE)
    put(valkey_url, "0199-2", SOURCE)
    put(valkey_url, "0199-9", "/sidecar/prod/bank")
    listed = sidecar("jobs", "list", **where)
    assert listed.returncode == 0, listed.stderr
    rows = [line.split("\t") for line in listed.stdout.splitlines()]
    assert [row[:4] for row in rows] == [
        ["0199-1", "acme", "waiting", "1"], ["0199-2", "acme", "waiting", "2"]
    ]  # fmt: skip
    assert rows[0][5] == "POST /exports/1"
    shown = json.loads(sidecar("jobs", "show", "0199-2", "--account", "acme", **where).stdout)
    assert (shown["id"], shown["position"], shown["href"]) == ("0199-2", 2, "/-/jobs/0199-2")
    cancelled = sidecar("jobs", "cancel", "0199-1", "--account", "acme", **where)
    assert (cancelled.returncode, cancelled.stdout) == (
        0,
        "Job 0199-1 of account acme is cancelled.\n",
    )
    shown = json.loads(sidecar("jobs", "show", "0199-1", "--account", "acme", **where).stdout)
    assert shown["state"] == "cancelled"
    assert len(sidecar("jobs", "list", "--limit", "5", **where).stdout.splitlines()) == 1


@pytest.mark.parametrize("command", ["show", "cancel"])
def test_an_unknown_job_is_an_error(sidecar: Any, valkey_url: str, command: str) -> None:
    done = sidecar("jobs", command, "0199", "--account", "acme", "--redis", valkey_url)
    assert done.returncode == 1
    assert 'has no job "0199"' in done.stderr


def test_unavailable_redis_is_an_error(sidecar: Any) -> None:
    done = sidecar("jobs", "list", "--redis", "redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "127.0.0.1:1 refuses connections" in done.stderr


def test_the_parse_secret_an_account_is_derived_from_the_setting(sidecar: Any) -> None:
    master = "whsec_" + base64.b64encode(b"m" * 32).decode()
    made = sidecar("jobs", "secret", "--account", "acme", SIDECAR_WEBHOOK_SECRET=master)
    assert made.stdout.strip() == account_secret(parse_secret(master), "acme")
    assert "--webhook-secret: no value" in sidecar("jobs", "secret", "--account", "acme").stderr
    wrong = sidecar("jobs", "secret", "--account", "acme", SIDECAR_WEBHOOK_SECRET="hush")
    assert wrong.returncode == 2
    assert "hush" not in wrong.stderr


def test_the_webhook_of_an_account_is_set(sidecar: Any, valkey_url: str) -> None:
    url = "https://example.com/hook"
    done = sidecar("accounts", "set", "a", "--plan", "p", "--webhook", url, "--redis", valkey_url)
    assert done.returncode == 0, done.stderr
    listed = sidecar("accounts", "list", "--redis", valkey_url).stdout
    assert f"webhook={url}" in listed
    wrong = sidecar("accounts", "set", "a", "--webhook", "x y", "--redis", valkey_url)
    assert wrong.returncode == 2
