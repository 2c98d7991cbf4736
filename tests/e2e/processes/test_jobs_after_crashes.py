"""Deferred jobs when sidecars die or stop, with at-least-once and at-most-once delivery."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.model import Account, Pack
from sidecar.stores.admin import Admin
from tests.support.jobs_plan import jobs_plan
from tests.support.processes import PATIENCE_S, Serving, SlowApi, StartServing, until

JOBS = 6
QUICK = {"job_lease_s": 1, "jobs_at_once": 2}


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.yaml"
    path.write_text(jobs_plan(quota=1))
    return path


def buy(valkey_url: str) -> None:
    pack = Pack("boost", "monthly", "requests", 100, "month")
    with Admin(valkey_url, "qs") as admin:
        admin.grant(Account("acme", "free"), pack, "g1")


async def accept(here: Serving, slow_api: SlowApi, count: int) -> list[str]:
    """Use up the quota, and return the hrefs of `count` accepted jobs."""
    slow_api.release.set()
    assert (await here.call("/first"))[0] == 200
    slow_api.release.clear()
    hrefs = []
    for number in range(count):
        status, text = await here.call(f"/exports/{number}")
        assert status == 202, text
        hrefs.append(json.loads(text)["href"])
    return hrefs


async def ended(here: Serving, hrefs: list[str]) -> list[Any]:
    """Return the jobs when all have ended."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            jobs = [json.loads((await here.call(href))[1]) for href in hrefs]
            if not {job["state"] for job in jobs} & {"waiting", "running"}:
                return jobs
            await asyncio.sleep(0.05)


def usage(*sidecars: Serving) -> list[Any]:
    events = [event for one in sidecars for event in one.events()]
    return [e for e in events if e["type"] == "api.request.v1" and e["data"]["route"] == "export"]


async def test_no_job_is_lost_when_a_sidecar_is_killed(
    serving: StartServing, slow_api: SlowApi, plans: Path, valkey_url: str
) -> None:
    flags = QUICK | {
        "upstream": f"http://127.0.0.1:{slow_api.port}", "plans": plans, "redis": valkey_url,
    }  # fmt: skip
    one, other = await serving(**flags), await serving(**flags)
    hrefs = await accept(one, slow_api, JOBS)
    buy(valkey_url)
    await until(lambda: slow_api.arrived >= 1 + 4)  # two are running at each of them
    one.process.kill()
    await one.process.wait()
    slow_api.release.set()
    jobs = await ended(other, hrefs)
    assert [job["state"] for job in jobs] == ["done"] * JOBS
    assert {job["result"]["body"] for job in jobs} == {"first-second"}
    await until(lambda: len(usage(one, other)) == JOBS)  # one usage event each


async def test_no_job_runs_twice_with_at_most_once_delivery(
    serving: StartServing, slow_api: SlowApi, plans: Path, valkey_url: str
) -> None:
    flags = QUICK | {
        "upstream": f"http://127.0.0.1:{slow_api.port}", "plans": plans, "redis": valkey_url,
        "jobs": "at-most-once",
    }  # fmt: skip
    one, other = await serving(**flags), await serving(**flags)
    hrefs = await accept(one, slow_api, JOBS)
    buy(valkey_url)
    await until(lambda: slow_api.arrived >= 1 + 4)
    one.process.kill()
    await one.process.wait()
    slow_api.release.set()
    jobs = await ended(other, hrefs)
    states = [job["state"] for job in jobs]
    assert (states.count("done"), states.count("failed")) == (4, 2)
    assert {job["reason"] for job in jobs} == {"ok", "lost"}
    assert slow_api.arrived == 1 + JOBS
    assert await asyncio.to_thread(lambda: len(usage(other))) <= 4


async def test_a_stopping_sidecar_finishes_its_running_jobs(
    serving: StartServing, slow_api: SlowApi, plans: Path, valkey_url: str
) -> None:
    one = await serving(upstream=f"http://127.0.0.1:{slow_api.port}", plans=plans, jobs_at_once=2)
    [href, _] = await accept(one, slow_api, 2)
    buy(valkey_url)
    await until(lambda: slow_api.arrived == 3)
    one.process.send_signal(signal.SIGTERM)
    await until(lambda: one.said("drain_started"))
    slow_api.release.set()
    assert await one.process.wait() == 0
    assert len(usage(one)) == 2
    other = await serving(upstream=f"http://127.0.0.1:{slow_api.port}", plans=plans)
    job = json.loads((await other.call(href))[1])
    assert (job["state"], job["result"]["body"]) == ("done", "first-second")


async def test_a_job_that_outlasts_the_drain_is_requeued_and_run_elsewhere(
    serving: StartServing, slow_api: SlowApi, plans: Path, valkey_url: str
) -> None:
    upstream = f"http://127.0.0.1:{slow_api.port}"
    one = await serving(upstream=upstream, plans=plans, drain_timeout_s=0.1)
    [href] = await accept(one, slow_api, 1)
    buy(valkey_url)
    await until(lambda: slow_api.arrived == 2)
    one.process.send_signal(signal.SIGTERM)
    assert await one.process.wait() == 0
    assert usage(one) == []
    slow_api.release.set()
    other = await serving(upstream=upstream, plans=plans)
    [job] = await ended(other, [href])
    assert (job["state"], slow_api.arrived) == ("done", 3)
    await until(lambda: len(usage(one, other)) == 1)
