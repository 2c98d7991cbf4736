"""The journal on a disk that fails or loses power: entries that are committed stay, each once."""

import asyncio
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.files import Files
from sidecar.stores.local import journal as journal_module
from sidecar.stores.local.journal import SUFFIX, Journal
from sidecar.stores.local.journal_reader import lock_abandoned
from tests.stores.local.test_journal import a_journal, files, read, write, written
from tests.support.faults import FAULTS, Fault, FaultyDisk
from tests.support.power import Disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.close()


@pytest.fixture(autouse=True)
def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 0.0)


def entries_in(directory: Path) -> list[int]:
    """The numbers of the entries in the journals of a directory, which are sound."""
    numbers: list[int] = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        reader, entries = read(path)
        assert reader.invalid_lines == 0
        numbers += [entry.seq for entry in entries]
    return numbers


async def test_15_entries_survive_a_power_failure_at_any_commit(tmp_path: Path, disk: Disk) -> None:
    directory = tmp_path / "journal"
    async with a_journal(directory, disk.files) as journal:
        for number in range(1, 6):
            write(journal)
            await written(journal)
            left = disk.after_power_failure(directory, tmp_path / f"after-{number}")
            assert entries_in(left) == list(range(1, number + 1))
            [(_, descriptor)] = lock_abandoned(left)  # so that another process charges it
            os.close(descriptor)


@pytest.mark.parametrize("ignored", ["file", "directory"])
async def test_15_without_syncs_of_one_kind_a_power_failure_loses_entries(
    tmp_path: Path, ignored: str
) -> None:
    """So each of the two is needed."""
    disk, directory = Disk(ignored=[ignored]), tmp_path / "journal"
    async with a_journal(directory, disk.files) as journal:
        write(journal)
        await written(journal)
        left = disk.after_power_failure(directory, tmp_path / "left")
    disk.close()
    assert entries_in(left) == []


async def test_15_a_charged_journal_is_not_there_again_after_a_power_failure(
    tmp_path: Path, disk: Disk
) -> None:
    directory = tmp_path / "journal"
    async with a_journal(directory, disk.files) as journal:
        write(journal)
        await written(journal)
        journal.discard()
    left = disk.after_power_failure(directory, tmp_path / "left")
    assert files(left) == files(directory) == []


async def test_15_the_second_journal_of_a_process_survives_too(tmp_path: Path, disk: Disk) -> None:
    directory = tmp_path / "journal"
    async with a_journal(directory, disk.files) as journal:
        for number in (1, 2, 3):
            write(journal)
            await written(journal)
            left = disk.after_power_failure(directory, tmp_path / f"after-{number}")
            assert entries_in(left) == [number]
            journal.discard()


async def work(journal: Journal, groups: list[int]) -> int:
    number = 0
    for group in groups:
        for _ in range(group):
            number = write(journal)
        for _ in range(3):
            await asyncio.sleep(0)
    return number


@given(faults=FAULTS, groups=st.lists(st.integers(0, 4), min_size=1, max_size=10))
def test_15_writes_that_fail_while_entries_arrive_lose_and_repeat_none(
    faults: list[Fault], groups: list[int]
) -> None:
    async def run(directory: Path) -> int:
        disk = FaultyDisk(faults)
        disk.armed = True
        async with a_journal(directory, disk.files) as journal:
            number = await work(journal, groups)
            await written(journal)
            assert journal.unwritten == 0
        return number

    with tempfile.TemporaryDirectory() as name:
        number = asyncio.run(run(Path(name)))
        assert entries_in(Path(name)) == list(range(1, number + 1))
        assert len(list(Path(name).iterdir())) == (number > 0)


@pytest.mark.parametrize("kind", ["open", "write", "sync", "rename"])
async def test_15_a_failed_write_is_repeated_before_later_entries(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = FaultyDisk([errno.EIO] * 3, [kind])
    disk.armed = True
    async with a_journal(tmp_path, disk.files) as journal:
        write(journal)
        async with asyncio.timeout(20):
            while not disk.failed:
                await asyncio.sleep(0)
        write(journal)
        write(journal)
        await written(journal)
    assert entries_in(tmp_path) == [1, 2, 3]
    said = capsys.readouterr().out
    assert said.count("journal_write_failed") == said.count("journal_write_recovered") == 1


async def test_15_what_the_disk_refuses_at_the_end_leaves_whole_lines(tmp_path: Path) -> None:
    disk = FaultyDisk([errno.ENOSPC] * 100, ["write", "sync"])
    async with a_journal(tmp_path, disk.files) as journal:
        write(journal)
        await written(journal)
        disk.armed = True
        write(journal)
    [path] = files(tmp_path)
    _, entries = read(path)
    assert [entry.seq for entry in entries] == [1]


async def test_15_a_directory_that_cannot_be_synced_holds_back_the_entries(tmp_path: Path) -> None:
    """An entry whose file may lose its name is not written."""
    broken = True

    def sync(descriptor: int) -> None:
        if broken:
            raise OSError(errno.EIO, "Input/output error")
        Files().sync(descriptor)

    async with a_journal(tmp_path / "journal", Files(sync=sync)) as journal:
        write(journal)
        async with asyncio.timeout(20):
            while not journal._failure:
                await asyncio.sleep(0)
        assert entries_in(tmp_path / "journal") == []
        broken = False
        await written(journal)
    assert entries_in(tmp_path / "journal") == [1]


async def test_I5_no_other_process_finds_a_new_journal_unlocked(tmp_path: Path) -> None:
    """It would charge and delete the journal of a running process."""
    found: list[Path] = []

    def rename(new: Path, path: Path) -> None:
        new.rename(path)
        for journal, descriptor in lock_abandoned(tmp_path):
            os.close(descriptor)
            found.append(journal)

    async with a_journal(tmp_path, Files(rename=rename)) as journal:
        write(journal)
        await written(journal)
    assert found == []
