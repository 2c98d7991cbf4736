"""Two real sidecars share a quota during a Redis outage, and one of them is killed.

They exceed no quota and refuse no critical request, and the counter equals the events at the end.
"""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from sidecar.stores import keys
from sidecar.stores.scripts import read_state
from tests.e2e.processes.test_redis_outage import Store
from tests.support.processes import Serving, SlowApi, StartServing, until
from tests.support.stage import plans_text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    own = Store(tmp_path)
    yield own
    own.kill()


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    path = tmp_path / "plans.yaml"
    path.write_text(
        plans_text(100).replace("when_store_is_down: deny", "when_store_is_down: local")
    )
    return path


async def metric(here: Serving, line: str) -> bool:
    return line in (await here.ask("/metrics"))[1].splitlines()


async def until_metric(servings: list[Serving], line: str) -> None:
    async with asyncio.timeout(60):
        while not all([await metric(here, line) for here in servings]):
            await asyncio.sleep(0.02)


async def statuses(here: Serving, number: int, path: str = "/items") -> list[int]:
    return [(await here.call(path))[0] for _ in range(number)]


async def login(here: Serving) -> int:
    """Send a critical request, which costs one unit."""
    head = b"POST /login HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 0\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    writer.write(head)
    status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
    writer.close()
    return status


def usage(servings: list[Serving]) -> int:
    """The units in the events of all sidecars."""
    events = [event for here in servings for event in here.events()]
    kind = "api.request.v1"
    return sum(one["data"]["usage"].get("requests", 0) for one in events if one["type"] == kind)


def journalled(here: Serving) -> int:
    """The number of requests in its journals on disk."""
    paths = (here.spool / "journal").glob("*.journal")
    return sum(path.read_text().count('\n["used"') for path in paths)


def counted(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        packed = client.hget(keys.state("qs", "acme"), "q/monthly")
    assert isinstance(packed, bytes)
    return read_state(packed)[0]


async def test_I1_I3_I5_a_redis_outage_exceeds_no_quota_and_loses_no_usage(
    serving: StartServing, store: Store, plans: Path, slow_api: SlowApi
) -> None:
    slow_api.release.set()
    store.start()
    upstream = f"http://127.0.0.1:{slow_api.port}"
    both = [
        await serving(redis=store.url, plans=plans, upstream=upstream, redis_timeout_ms=100)
        for _ in range(2)
    ]
    first, second = both
    await until_metric(both, "sidecar_sidecars_up 2.0")
    assert await statuses(first, 39) == [200] * 39
    assert await statuses(second, 1) == [200]

    store.send(signal.SIGSTOP)
    await until_metric(both, 'sidecar_store_mode{mode="local"} 1.0')
    code, body = await first.ask("/readyz")
    assert (code, len(json.loads(body)["degraded"])) == (200, 1)
    assert await statuses(first, 20) == [200] * 20
    await until(lambda: (usage([first]), journalled(first)) == (59, 20))  # the commit windows
    first.process.kill()
    await first.process.wait()
    await first.start()
    assert sorted(await statuses(first, 20)) == [200] * 10 + [503] * 10
    assert sorted(await statuses(second, 40)) == [200] * 30 + [503] * 10
    assert [await login(here) for here in both for _ in range(5)] == [200] * 10
    assert await statuses(second, 5, "/status") == [200] * 5

    store.send(signal.SIGCONT)
    await until_metric(both, 'sidecar_store_mode{mode="redis"} 1.0')
    await until_metric(both, "sidecar_journal_entries 0.0")
    await until(lambda: usage(both) == 110)
    assert counted(store.url) == 110
    assert [await statuses(here, 1) for here in both] == [[429], [429]]
    assert [await login(here) for here in both] == [200, 200]
    assert first.said("journal_charged")
    [alone], [back] = second.said("local_mode_started"), second.said("local_mode_ended")
    assert alone["sidecars"] == 2
    assert back["since"] <= alone["timestamp"]


async def test_I5_usage_during_an_outage_is_charged_to_an_empty_redis(
    serving: StartServing, store: Store, plans: Path, slow_api: SlowApi
) -> None:
    slow_api.release.set()
    store.start()
    here = await serving(
        redis=store.url, plans=plans, upstream=f"http://127.0.0.1:{slow_api.port}",
        redis_timeout_ms=100, workers=2,
    )  # fmt: skip
    assert await statuses(here, 40) == [200] * 40
    await until_metric([here], "sidecar_sidecars_up 2.0")
    store.kill()
    await until_metric([here], 'sidecar_store_mode{mode="local"} 2.0')
    passed = (await statuses(here, 100)).count(200)
    assert 30 <= passed <= 80  # a local share has 60 units; the other worker's snapshot is older
    store.start()
    await until_metric([here], 'sidecar_store_mode{mode="redis"} 2.0')
    await until_metric([here], "sidecar_journal_entries 0.0")
    assert counted(store.url) == passed
