"""Two real sidecars with clocks an hour apart, one of them set back and forth, admit as one would.

libfaketime (Debian: libfaketime) changes every reading of the time of day in the process, also in
C. The monotonic clock is the machine's.
"""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
import redis

from tests.support.processes import Serving, SlowApi, StartServing, until
from tests.support.servers import start_valkey

FOUND = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
HOUR = 3600
PERIODS = (3600, 3607, 3613)  # seconds, counted from 1970

pytestmark = pytest.mark.skipif(not FOUND, reason="libfaketime is not installed")

PLANS = """
version: 1
meters: {{requests: {{unit: request}}}}
routes:
  - {{id: rest, match: "/**"}}
plans:
  quota:
    limits: [{{id: hourly, meter: requests, quota: 60/{seconds}s}}]
  rate:
    limits: [{{id: slow, meter: requests, rate: 2/day, burst: 20}}]
  slots:
    limits: [{{id: in-flight, concurrency: 3}}]
accounts:
"""
KEY = "  - {{id: {0}, plan: {0}, keys: [{{id: k1, sha256: {1}}}]}}\n"


class WrongClock:
    """The number of seconds by which the clock of a process is ahead."""

    def __init__(self, directory: Path, ahead: int) -> None:
        self._file = directory / f"clock-{time.monotonic_ns()}"
        self.ahead = ahead

    @property
    def ahead(self) -> int:
        return self._ahead

    @ahead.setter
    def ahead(self, seconds: int) -> None:
        self._ahead = seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)

    @property
    def env(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(FOUND[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    """A plan file whose quota has a period of about an hour, chosen with the most time left."""
    now = time.time()
    seconds = max(PERIODS, key=lambda period: period - now % period)
    keys = (KEY.format(name, sha256(name.encode()).hexdigest()) for name in
            ("quota", "rate", "slots"))  # fmt: skip
    path = tmp_path / "plans.yaml"
    path.write_text(PLANS.format(seconds=seconds) + "".join(keys))
    return path


@pytest.fixture
async def apart(
    serving: StartServing, plans: Path, slow_api: SlowApi, tmp_path: Path
) -> tuple[list[Serving], WrongClock]:
    """Two sidecars, the first an hour ahead, and the clock of the second."""
    ahead, right = WrongClock(tmp_path, HOUR), WrongClock(tmp_path, 0)
    upstream = f"http://127.0.0.1:{slow_api.port}"
    both = [await serving(plans=plans, upstream=upstream, env=one.env) for one in (ahead, right)]
    return both, right


async def admitted(here: Serving, key: str, calls: int) -> int:
    """Send `calls` requests. Returns how many passed; a limit refused the others."""
    statuses = [(await here.call("/items", X_Api_Key=key))[0] for _ in range(calls)]
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def dated(here: Serving) -> list[float]:
    """The times of its events, in seconds from now."""
    return [
        datetime.fromisoformat(event["time"]).astimezone(UTC).timestamp() - time.time()
        for event in here.events()
    ]


def seconds_of_id(here: Serving) -> float:
    """The time in the id of its last event, in seconds."""
    return int(here.events()[-1]["id"].replace("-", "")[:12], 16) / 1000


@pytest.mark.parametrize(("key", "limit"), [("quota", 60), ("rate", 20)])
async def test_I1_I8_clocks_an_hour_apart_and_set_back_change_no_decision(
    apart: tuple[list[Serving], WrongClock], slow_api: SlowApi, key: str, limit: int
) -> None:
    slow_api.release.set()
    (first, second), clock = apart
    part = limit // 6
    passed = 0
    for step in (0, -2 * HOUR, +HOUR, -HOUR // 2, 0):
        clock.ahead = step
        for here in (first, second):
            passed += await admitted(here, key, part)
    assert passed == limit
    for step in (-HOUR, 25 * HOUR, -25 * HOUR):
        clock.ahead = step
        assert await admitted(second, key, 3) == await admitted(first, key, 3) == 0
    await until(lambda: sum(len(here.events()) for here in (first, second)) == limit)
    # Events have the time of Redis, and the period that it counted; request ids follow the clocks.
    for here in (first, second):
        assert max(map(abs, dated(here))) < 300
        assert {event["clock"] for event in here.events()} == {"redis"}
    periods = {event["data"].get("periods", {}).get("hourly") for event in first.events()}
    assert len(periods) == 1
    assert abs(seconds_of_id(first) - time.time()) > HOUR - 300


async def test_I1_I8_a_changed_clock_frees_no_slot(
    apart: tuple[list[Serving], WrongClock], slow_api: SlowApi
) -> None:
    (first, second), clock = apart
    held = [
        asyncio.ensure_future(here.call("/held", X_Api_Key="slots"))
        for here in (first, second, second)
    ]
    await until(lambda: slow_api.arrived == 3)
    for step in (2 * HOUR, -2 * HOUR, 0):
        clock.ahead = step
        for here in (first, second):
            assert (await here.call("/held", X_Api_Key="slots"))[0] == 429
    slow_api.release.set()
    assert [status for status, _ in await asyncio.gather(*held)] == [200] * 3
    async with asyncio.timeout(60):
        while (await second.call("/held", X_Api_Key="slots"))[0] != 200:
            await asyncio.sleep(0.01)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[tuple[str, "redis.Redis"]]:
    process, port = start_valkey(tmp_path)
    with redis.Redis(port=port) as client:
        yield f"redis://127.0.0.1:{port}/0", client
    process.kill()
    process.wait()


async def test_I1_I8_a_changed_clock_during_a_redis_outage_starts_no_period(
    serving: StartServing,
    own_redis: tuple[str, "redis.Redis"],
    plans: Path,
    slow_api: SlowApi,
    tmp_path: Path,
) -> None:
    slow_api.release.set()
    url, admin = own_redis
    clock = WrongClock(tmp_path, HOUR)
    upstream = f"http://127.0.0.1:{slow_api.port}"
    here = await serving(plans=plans, upstream=upstream, redis=url, env=clock.env)
    assert await admitted(here, "quota", 20) == 20
    admin.shutdown(nosave=True)
    passed = 0
    for step in (0, HOUR, -HOUR):
        clock.ahead = step
        statuses = [(await here.call("/items", X_Api_Key="quota"))[0] for _ in range(20)]
        passed += statuses.count(200)
    assert passed == 40
    assert (await here.call("/items", X_Api_Key="quota"))[0] in (429, 503)
