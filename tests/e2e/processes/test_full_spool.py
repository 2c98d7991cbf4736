"""A spool that reaches --spool-max-bytes without sinks: the log, the requests that still pass, and
the events that are kept at the end."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import aiohttp

from tests.support.processes import Serving, StartServing
from tests.support.stage import plans_text

BOUND = 1 << 20


async def load(here: Serving, path: str, calls: int) -> Counter[int]:
    """Send concurrent requests, without an API: 502 means admitted and recorded."""
    connector = aiohttp.TCPConnector(limit=20)
    async with aiohttp.ClientSession(connector=connector, headers={"X-Api-Key": "acme"}) as session:

        async def one() -> int:
            async with session.get(f"http://127.0.0.1:{here.port}{path}") as answer:
                await answer.read()
                return answer.status

        return Counter(await asyncio.gather(*(one() for _ in range(calls))))


async def test_I4_a_full_spool_refuses_only_non_critical_requests_and_sigterm_keeps_every_event(
    serving: StartServing, tmp_path: Path
) -> None:
    plans = tmp_path / "many.yaml"
    plans.write_text(plans_text(quota=1_000_000))
    here = await serving(plans=plans, spool_max_bytes=BOUND, commit_window_ms=5)
    served = 0
    async with asyncio.timeout(90):
        while True:
            statuses = await load(here, "/items", 100)
            served += statuses[502]
            assert statuses.keys() <= {502, 503}
            if statuses[503]:
                break
    critical = await load(here, "/status", 50)
    assert critical == {502: 50}
    code, body = await here.ask("/readyz")
    document = json.loads(body)
    assert (code, document["reasons"]) == (200, [])
    [degraded] = document["degraded"]
    assert degraded.startswith("spool: ")
    metrics = (await here.ask("/metrics"))[1]
    assert "sidecar_spool_max_bytes 1.048576e+06" in metrics
    for event in ("sinks_not_configured", "spool_almost_full",
                  "spool_full"):  # fmt: skip
        [line] = here.said(event)
        assert "set --sinks" in line["remedy"], line
    here.process.terminate()
    async with asyncio.timeout(60):
        assert await here.process.wait() == 0
    assert here.said("events_lost") == here.said("events_dropped") == []
    events = here.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    calls = Counter(event["data"]["route"] for event in events if event["type"] == "api.request.v1")
    assert calls == {"rest": served, "status": 50}
