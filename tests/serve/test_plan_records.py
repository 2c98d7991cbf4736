"""Plan records: each version that was live is in the spool and in Redis."""

import asyncio
import hashlib
from pathlib import Path

import redis

from sidecar.config import archive
from sidecar.errors import StoreUnavailable
from sidecar.serve.plan_records import MOST_WAITING, PlanRecords
from sidecar.stores import Connection, PlanFiles, keys
from sidecar.stores.plan_file_reader import PlanFileReader
from tests.support.events import until
from tests.support.removal import remove


class LateStore(PlanFiles):
    """A store that is unavailable at first."""

    down = True

    async def renew(self, version: str) -> bool:
        if self.down:
            raise StoreUnavailable("Redis is unavailable")
        return await super().renew(version)


def edit(plan_file: Path, number: int) -> str:
    text = f"version: 1\n# {number}\n".encode()
    plan_file.write_bytes(text)
    return "sha256:" + hashlib.sha256(text).hexdigest()


async def test_14_each_version_that_was_live_is_kept_though_redis_is_late(
    wire: Connection, valkey_url: str, tmp_path: Path
) -> None:
    plan_file, spool = tmp_path / "plans.yaml", tmp_path / "spool"
    spool.mkdir()
    store = LateStore(wire, "qs")
    records = PlanRecords(plan_file, spool, store)
    versions = []
    for number in range(3):
        versions.append(edit(plan_file, number))
        records.live(versions[-1])
        await asyncio.wait([records._waiting[versions[-1]]])  # before the file changes again
        assert not await records.share()
    store.down = False
    assert await records.share()
    reader = PlanFileReader(valkey_url, "qs")
    for number, version in enumerate(versions):
        text = f"version: 1\n# {number}\n".encode()
        assert reader.find(version) == archive.find(spool, version) == text
    assert reader.versions()[-1] == versions[-1]


async def test_14_a_redis_that_lost_its_data_gets_the_live_file_again(
    wire: Connection, valkey_url: str, tmp_path: Path
) -> None:
    plan_file, spool = tmp_path / "plans.yaml", tmp_path / "spool"
    spool.mkdir()
    records = PlanRecords(plan_file, spool, PlanFiles(wire, "qs"))
    version = edit(plan_file, 1)
    records.live(version)
    assert await records.share()
    with redis.Redis.from_url(valkey_url) as client:
        client.delete(keys.plan_files("qs"), keys.live_plan_files("qs"))
    plan_file.write_text("not yet loaded")
    assert await records.share()
    assert PlanFileReader(valkey_url, "qs").versions() == [version]


async def test_a_file_that_changes_before_it_is_read_is_not_kept_under_the_old_version(
    wire: Connection, valkey_url: str, tmp_path: Path
) -> None:
    plan_file = tmp_path / "plans.yaml"
    records = PlanRecords(plan_file, tmp_path, PlanFiles(wire, "qs"))
    version = edit(plan_file, 1)
    edit(plan_file, 2)
    records.live(version)
    assert await records.share()
    assert PlanFileReader(valkey_url, "qs").versions() == []


async def test_I9_the_versions_that_wait_for_redis_are_bounded(
    wire: Connection, tmp_path: Path
) -> None:
    plan_file = tmp_path / "plans.yaml"
    records = PlanRecords(plan_file, tmp_path, LateStore(wire, "qs"))
    for number in range(MOST_WAITING + 3):
        records.live(edit(plan_file, number))
    assert len(records._waiting) == MOST_WAITING
    assert not await records.share()


async def test_14_a_new_spool_directory_gets_the_live_file_also_if_it_has_changed_since(
    wire: Connection, tmp_path: Path
) -> None:
    plan_file, spool = tmp_path / "plans.yaml", tmp_path / "spool"
    spool.mkdir()
    records = PlanRecords(plan_file, spool, PlanFiles(wire, "qs"))
    version = edit(plan_file, 1)
    records.live(version)
    assert await records.share()
    edit(plan_file, 2)  # and it does not become live
    remove(spool)
    spool.mkdir()
    records.keep_again()
    await until(lambda: archive.find(spool, version) is not None)
    assert archive.find(spool, version) == b"version: 1\n# 1\n"
