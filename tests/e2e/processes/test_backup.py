"""Backup and restore as docs/how-to/operate.md describes it, with real servers and a real spool."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sidecar.stores import keys
from tests.support.processes import Serving, SlowApi, StartServing, until
from tests.support.servers import start_valkey

PLANS = """
version: 1
meters: {requests: {unit: request}}
routes: [{id: rest, match: "/**"}]
plans:
  free:
    limits: [{id: monthly, meter: requests, quota: 100/month, at: {100%: reject}}]
packs:
  boost: {meter: requests, units: 50, lasts: 30d, price: 5 USD}
"""


class Store:
    """A Valkey whose data a test can back up, lose and restore."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir()
        self._process, self.port = start_valkey(directory)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def back_up(self, to: Path) -> None:
        """Copy a snapshot, as `redis-cli --rdb` or BGSAVE does."""
        with redis.Redis(port=self.port) as client:
            client.save()
        shutil.copy(self.directory / "dump.rdb", to)

    def lose(self) -> None:
        """Kill the server and delete its files."""
        self.end()
        shutil.rmtree(self.directory)
        self.directory.mkdir()

    def restore(self, backup: Path) -> None:
        """Start a server on the same port, with the data of a backup."""
        shutil.copy(backup, self.directory / "dump.rdb")
        self._process, _ = start_valkey(self.directory, port=self.port)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "valkey")
    yield one
    one.end()


def copy_live_spool(spool: Path, to: Path) -> None:
    """Copy the spool of a running sidecar: its buffer first, as it moves events to segments."""
    to.mkdir()
    for file in spool.glob(".buffer.map"):
        subprocess.run(["cp", "--sparse=always", file, to], check=True)
    for file in spool.iterdir():
        if file.is_dir():
            shutil.copytree(file, to / file.name)
        elif file.name != ".buffer.map":
            shutil.copy(file, to)


async def use(here: Serving, key: str, times: int) -> list[int]:
    return [(await here.call("/items", X_Api_Key=key))[0] for _ in range(times)]


def ids(file: Path) -> list[str]:
    """Ids of the usage events in a file."""
    events = [json.loads(line) for line in file.read_text().splitlines()]
    return [event["id"] for event in events if event["type"] == "api.request.v1"]


async def test_redis_and_spool_are_restored_from_backups_and_no_unit_is_lost(
    serving: StartServing, store: Store, slow_api: SlowApi, tmp_path: Path, sidecar: Any
) -> None:
    slow_api.release.set()
    plans = tmp_path / "plans.yaml"
    plans.write_text(PLANS)
    here = await serving(redis=store.url, plans=plans, upstream=f"http://127.0.0.1:{slow_api.port}")
    at = ["--redis", store.url]
    assert sidecar("accounts", "set", "acme", "--plan", "free", *at).returncode == 0
    key = sidecar("keys", "create", "--account", "acme", *at).stdout.strip()
    grant = ["grant", "acme", "boost", "--plans", plans, "--id", "order-1", *at]
    assert sidecar(*grant).returncode == 0
    assert await use(here, key, 20) == [200] * 20

    # 1. A backup of Redis, then more requests, then Redis is lost and restored.
    backup = tmp_path / "backup.rdb"
    store.back_up(backup)
    assert await use(here, key, 10) == [200] * 10
    store.lose()
    store.restore(backup)
    await until(lambda: len(here.said("redis_reachable")) > 0)
    await until(lambda: sum(one["type"] == "api.request.v1" for one in here.events()) == 30)
    compare = ["--plans", plans, *at, "--wait", 0, "--spool"]
    lost = sidecar("reconcile", *compare, here.spool)
    assert (lost.returncode, "-10 LOST" in lost.stdout) == (1, True), lost.stdout
    assert sidecar("rebuild", *compare, here.spool, "--apply").returncode == 0
    assert sidecar("reconcile", *compare, here.spool).returncode == 0
    assert sidecar(*grant).returncode == 0  # paid once: the backup has it
    assert await use(here, key, 120) == [200] * 120  # 100 of the plan and 50 of one pack
    assert await use(here, key, 1) == [429]

    # 2. A copy of the live spool; then its machine is lost, and a sidecar starts without it.
    await until(lambda: len(here.events()) >= 150)
    copied, usage = tmp_path / "copied-spool", tmp_path / "usage.jsonl"
    copy_live_spool(here.spool, copied)
    here.process.kill()
    await here.process.wait()
    shutil.rmtree(here.spool)
    shipped = sidecar("events", "ship", "--spool", copied, "--sinks", f"file:{usage}", *at)
    assert shipped.returncode == 0, shipped.stderr
    assert len(ids(usage)) == len(set(ids(usage))) == 150
    again = await serving(
        redis=store.url, plans=plans, upstream=f"http://127.0.0.1:{slow_api.port}"
    )
    assert await use(again, key, 1) == [429]
    both = sidecar("reconcile", *compare, again.spool, "--events", usage)
    assert both.returncode == 0, both.stdout
    assert sidecar("events", "verify", "--spool", copied).returncode == 0
    with redis.Redis(port=store.port) as client:
        assert client.exists(keys.state("qs", "acme"))
