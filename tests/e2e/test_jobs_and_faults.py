"""Deferred jobs during Redis outages, lost leases, timeouts and full runners."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from sidecar.core.model import Account, Pack
from sidecar.stores.admin import Admin
from tests.support.jobs_plan import ROOM, a_stage, ask, until_job
from tests.support.processes import SlowApi
from tests.support.servers import start_valkey
from tests.support.stage import Stage, StartStage


def buy(url: str, units: int = 9) -> None:
    with Admin(url, "qs") as admin:
        pack = Pack("boost", "monthly", "requests", units, "month")
        admin.grant(Account("acme", "free"), pack, "g1")


async def used_up(stage: StartStage, slow_api: SlowApi, **flags: str) -> Stage:
    """Return a sidecar in front of the slow API; the account's quota is used up."""
    slow_api.release.set()
    here = await a_stage(stage, upstream=f"http://127.0.0.1:{slow_api.port}", **flags)
    slow_api.release.clear()
    return here


async def arrived(slow_api: SlowApi, count: int) -> None:
    async with asyncio.timeout(ROOM):
        while slow_api.arrived < count:
            await asyncio.sleep(0.01)


@pytest.fixture
async def own_valkey(tmp_path: Path) -> AsyncIterator[tuple[str, int]]:
    """Yield the URL and the process ID of a server that a test may stop."""
    process, port = start_valkey(tmp_path)
    yield f"redis://127.0.0.1:{port}/0", process.pid
    process.kill()
    process.wait(10)


async def test_the_end_of_a_job_is_stored_after_a_redis_outage(
    stage: StartStage, slow_api: SlowApi, own_valkey: tuple[str, int]
) -> None:
    url, pid = own_valkey
    here = await used_up(stage, slow_api, redis=url)
    href = (await ask(here, "GET", "/exports/1")).json["href"]
    buy(url)
    await arrived(slow_api, 2)
    os.kill(pid, signal.SIGSTOP)
    try:
        slow_api.release.set()
        jobs = here.app.jobs
        assert jobs is not None
        async with asyncio.timeout(ROOM):  # until it has run, and its end cannot be stored
            while len([e for e in await here.events() if e["type"] == "api.request.v1"]) < 2:
                await asyncio.sleep(0.01)
        assert (await ask(here, "GET", href)).status == 503
    finally:
        os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(ROOM):
        while (status := await ask(here, "GET", href)).status != 200:
            await asyncio.sleep(0.05)
    job = status.json if status.json["state"] == "done" else await until_job(here, href, "done")
    assert job["result"]["body"] == "first-second"
    assert slow_api.arrived == 2


async def test_without_redis_nothing_is_accepted(stage: StartStage) -> None:
    here = await a_stage(stage, used_up=False, redis="redis://127.0.0.1:1/0")
    assert (await ask(here, "POST", "/exports/1", Prefer="respond-async")).status == 503
    job = "/-/jobs/019bd2e0-4c1f-7a10-9c4e-2f9f3a1b5c6d"
    assert (await ask(here, "GET", job)).status == 503


async def test_a_job_that_another_sidecar_has_claimed_is_cancelled_here(
    stage: StartStage, slow_api: SlowApi, valkey_url: str
) -> None:
    here = await used_up(stage, slow_api, job_lease_s="1")
    href = (await ask(here, "GET", "/exports/1")).json["href"]
    buy(valkey_url)
    await arrived(slow_api, 2)
    with redis.Redis.from_url(valkey_url) as client:
        [record] = client.scan_iter("*:job:*")
        client.hset(record, "owner", "another")
    async with asyncio.timeout(ROOM):  # the request to the API is aborted
        while slow_api.left < 1:
            await asyncio.sleep(0.01)
    slow_api.release.set()
    job = await until_job(here, href, "done")  # it runs again when the other lease ends
    assert job["result"]["status"] == 200
    usage = [e for e in await here.events() if e["type"] == "api.request.v1"]
    assert len(usage) == 2


async def test_I9_a_job_beyond_its_maximum_age_fails(stage: StartStage, valkey_url: str) -> None:
    here = await a_stage(stage)
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    with redis.Redis.from_url(valkey_url) as client:
        [name] = client.keys("qs:{jobs}:*:open")
        client.zadd(name, dict.fromkeys(client.zrange(name, 0, -1), 1))  # accepted in 1970
    job = await until_job(here, href, "failed")
    assert job["reason"] == "expired"


async def test_I9_the_number_of_running_jobs_is_bounded(
    stage: StartStage, slow_api: SlowApi, valkey_url: str
) -> None:
    here = await used_up(stage, slow_api, jobs_at_once="2")
    hrefs = [(await ask(here, "GET", f"/exports/{n}")).json["href"] for n in range(4)]
    buy(valkey_url)
    await arrived(slow_api, 3)
    jobs = here.app.jobs
    assert jobs is not None
    states = [(await ask(here, "GET", href)).json["state"] for href in hrefs]
    assert states == ["running", "running", "waiting", "waiting"]
    assert jobs.runner.running == 2
    slow_api.release.set()
    for href in hrefs:
        await until_job(here, href, "done")
    assert slow_api.arrived == 5


async def test_a_sidecar_that_runs_no_jobs_accepts_them_for_others(
    stage: StartStage, valkey_url: str
) -> None:
    here = await a_stage(stage, jobs_at_once="0")
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    buy(valkey_url)
    other = await a_stage(stage, used_up=False)
    await until_job(here, href, "done")
    assert b"/exports/1" in other.upstream.received
    assert b"/exports/1" not in here.upstream.received


async def test_a_running_job_cannot_be_cancelled(
    stage: StartStage, slow_api: SlowApi, valkey_url: str
) -> None:
    here = await used_up(stage, slow_api)
    href = (await ask(here, "GET", "/exports/1")).json["href"]
    buy(valkey_url)
    await arrived(slow_api, 2)
    late = await ask(here, "DELETE", href)
    assert (late.status, late.json["status"]) == (409, 409)
    slow_api.release.set()
    await until_job(here, href, "done")


async def test_a_job_that_takes_too_long_fails_and_is_metered(
    stage: StartStage, slow_api: SlowApi, valkey_url: str
) -> None:
    here = await used_up(stage, slow_api, job_timeout_s="0.2")
    href = (await ask(here, "GET", "/exports/1")).json["href"]
    buy(valkey_url)
    job = await until_job(here, href, "failed")
    assert (job["reason"], "result" in job) == ("upstream_timeout", False)
    usage = [e for e in await here.events() if e["type"] == "api.request.v1"]
    assert [e["data"]["reason"] for e in usage] == ["ok", "upstream_timeout"]
