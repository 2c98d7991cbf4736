"""Responses while Redis is down, hangs or has never started, and when it is back."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import StartServing, until
from tests.support.servers import free_port, start_valkey
from tests.support.stage import Stage, StartStage, problem, status

REDUCED = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"


class Store:
    """A Valkey of this test, which can be killed and restarted at the same address."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.process, _ = start_valkey(self._directory, port=self.port)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    own = Store(tmp_path)
    yield own
    own.kill()


def up(here: Stage) -> bool:
    return here.app.metrics.registry.get_sample_value("sidecar_store_up") == 1


async def expect_the_plans_word(here: Stage) -> None:
    """Critical and `allow` are forwarded, `deny` gets Retry-After, and nothing is charged."""
    before = len(await here.events())
    assert status(await here.call("GET", "/status")) == 200  # costs nothing
    assert status(await here.call("POST", "/login", Content_Length="0")) == 200
    allowed = await here.call("GET", "/items", key="lena")
    assert status(allowed) == 200
    assert b"RateLimit" not in allowed  # the remaining units are unknown
    upstream_saw = len(here.upstream.received)
    denied = await here.call("GET", "/items", key="acme")
    assert status(denied) == 503
    assert b"\r\nRetry-After: 5\r\n" in denied
    document = problem(denied)
    assert (document["type"], document["status"]) == (REDUCED, 503)
    assert document["how_to_fix"] == [{"action": "wait", "seconds": 5}]
    assert len(here.upstream.received) == upstream_saw
    new = (await here.events())[before:]
    assert [(event["subject"], event["data"]["route"]) for event in new] == [
        ("acme", "status"),
        ("acme", "login"),
        ("lena", "rest"),
    ]


async def test_I3_during_a_redis_outage_each_plan_applies_its_when_store_is_down(
    stage: StartStage, store: Store
) -> None:
    store.start()
    here = await stage(redis=store.url)
    assert b'RateLimit: "monthly";r=999' in await here.call("GET", "/items")
    assert here.app.readiness() == ([], [])
    store.kill()
    await until(lambda: not up(here))
    await expect_the_plans_word(here)
    reasons, [degraded] = here.app.readiness()
    assert reasons == []
    assert degraded.startswith("redis: ")
    store.start()
    await until(lambda: up(here))
    assert here.app.readiness() == ([], [])
    for key in ("acme", "lena"):
        answer = await here.call("GET", "/items", key=key)
        assert status(answer) == 200
        # The empty Redis has no earlier usage; the usage during the outage is charged.
        assert b'RateLimit: "monthly";r=998' in answer
    labels = {"route": "rest", "class": "standard", "plan": "lenient", "outcome": "store-down"}
    read = here.app.metrics.registry.get_sample_value
    assert read("sidecar_requests_total", labels) == 1
    labels |= {"plan": "free", "outcome": "store-unavailable"}
    assert read("sidecar_requests_total", labels) == 1


async def test_I3_a_redis_that_hangs_is_an_outage(stage: StartStage, store: Store) -> None:
    store.start()
    here = await stage(redis=store.url, redis_timeout_ms="100")
    store.send(signal.SIGSTOP)
    try:
        await expect_the_plans_word(here)
    finally:
        store.send(signal.SIGCONT)
    async with asyncio.timeout(30):
        while status(await here.call("GET", "/items")) == 503:
            await asyncio.sleep(0.05)
    assert up(here)


async def test_an_unreachable_redis_at_the_start_is_logged_and_retried(
    serving: StartServing, store: Store
) -> None:
    here = await serving(redis=store.url)
    assert here.process.returncode is None
    assert str(store.port) in here.said("redis_unreachable_at_start")[0]["error"]
    assert (await here.ask("/healthz"))[0] == 200
    code, body = await here.ask("/readyz")
    document = json.loads(body)
    assert (code, document["ready"], document["degraded"]) == (503, False, [])
    [reason] = document["reasons"]
    assert reason.startswith("redis: ") and str(store.port) in reason
    assert (await here.call("/items"))[0] == 503
    store.start()
    async with asyncio.timeout(60):
        while (await here.ask("/readyz"))[0] != 200:
            await asyncio.sleep(0.05)
    assert here.said("redis_reachable")
    assert "sidecar_store_up 1.0" in (await here.ask("/metrics"))[1]
    assert (await here.call("/items"))[0] == 502  # admitted, but the API is unreachable


@pytest.mark.parametrize("workers", [1, 2])
async def test_I3_a_redis_outage_takes_no_sidecar_out_of_service(
    serving: StartServing, store: Store, workers: int
) -> None:
    store.start()
    several = {"workers": workers} if workers > 1 else {}
    here = await serving(redis=store.url, **several)

    async def ready() -> tuple[int, dict[str, Any]]:
        code, body = await here.ask("/readyz")
        return code, json.loads(body)

    fine = (200, {"ready": True, "reasons": [], "degraded": []})
    assert await ready() == fine
    store.kill()
    async with asyncio.timeout(60):
        while len((await ready())[1]["degraded"]) < workers:
            await asyncio.sleep(0.02)
    code, document = await ready()
    assert (code, document["ready"], document["reasons"]) == (200, True, [])
    front = [f"worker {number}: redis: " for number in range(workers)]
    for what, start in zip(
        document["degraded"], front if workers > 1 else ["redis: "], strict=True
    ):
        assert what.startswith(start)
    assert (await here.call("/status"))[0] == 502  # forwarded, but the API is unreachable
    store.start()
    async with asyncio.timeout(60):
        while await ready() != fine:
            await asyncio.sleep(0.02)
