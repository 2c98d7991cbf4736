"""The journal on disk: entries are read as written, and survive a failing disk."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.kinds import QuotaLimit, TeamShare
from sidecar.core.model import Account, Claim
from sidecar.core.shares import NEVER_SEEN, Snapshot
from sidecar.files import Files
from sidecar.stores.local import journal as journal_module
from sidecar.stores.local import journal_reader
from sidecar.stores.local.journal import NEW_SUFFIX, SUFFIX, Journal
from sidecar.stores.local.journal_format import (
    Entry,
    JournalHeader,
    NumberedOwner,
    Owner,
    entry_line,
    header_line,
    owner_line,
    read_line,
)
from sidecar.stores.local.journal_reader import JournalReader, lock_abandoned, summary
from tests.support.stores.local_stage import new_id

ACME = Account("acme", "pro", "Europe/Paris", date(2026, 1, 31))
MONTHLY = QuotaLimit("monthly", "requests", 100, "cycle", 120, rollover=7)
KEYED = QuotaLimit("daily", "tokens", 50, "day", 50, per="key")
NOW = 1_790_000_000_000_000
SNAPSHOT = Snapshot(NOW, 40, NOW + 9, 3)

TEXTS = st.text(min_size=1, max_size=9)
NUMBERS = st.integers(0, 2**53 - 1)
SHARES = st.builds(
    TeamShare, TEXTS, TEXTS, NUMBERS, st.sampled_from(["month", "90s"]),
    team=st.just("") | TEXTS, lends=st.booleans(),
)  # fmt: skip
QUOTAS = st.builds(
    QuotaLimit, TEXTS, TEXTS, NUMBERS, st.sampled_from(["month", "90s"]), NUMBERS,
    per=st.sampled_from(["account", "key"]), rollover=NUMBERS,
)  # fmt: skip
OWNERS = st.lists(st.tuples(QUOTAS | SHARES, st.builds(Snapshot, *[NUMBERS] * 5)), max_size=3)


@given(TEXTS, TEXTS, OWNERS, NUMBERS, st.none() | TEXTS, st.booleans())
def test_lines_are_read_as_they_were_written(
    name: str, key_id: str, limits: list[Any], number: int, hold: str | None, is_open: bool
) -> None:
    quotas, snapshots = [tuple(column) for column in zip(*limits, strict=True)] or [(), ()]
    owner = Owner(replace(ACME, id=name), key_id, quotas, snapshots)
    assert read_line(owner_line(3, owner), {}) == NumberedOwner(3, owner)
    entry = Entry(number, 3, NOW, tuple(range(len(quotas))), hold, is_open)
    assert read_line(entry_line(entry), {3: owner}) == entry
    assert read_line(header_line(JournalHeader(name, 2)), {}) == JournalHeader(name, 2)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"{}", b"[]", b"[1]", b'["journal",2,"a",1]', b'["journal",1,"",1]',
        b'["used",1,7,5,[1],null]', b'["used",1,0,5,[],null]', b'["used",1,0,5,[-1],null]',
        b'["used",1,0,5,[1.5],null]', b'["used",1,0,5,[1]', b'["spent",1,0,5,[1],null]',
        b'["used",1,0,5,[true],null]', b'["of",0,["acme"],"k1",[],[]]', b"\xff\xfe",
        b'["of",0,["a","p","UTC","soon"],"k1",[],[]]',
        b'["of",0,["a","p","UTC",null],"k1",[["m","r",1,1,"month","account",0,7,true]],[[0,0,0,0]]]',
        b'["of",0,["a","p","UTC",null],"k1",[["m","r",1,1,"month","account",0,"a"]],[[0,0,0,0]]]',
        b'["used"]', b"9" * 5000,
    ],
)  # fmt: skip
def test_an_invalid_line_raises_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        read_line(line, {0: Owner(ACME, "k1", (MONTHLY,), (SNAPSHOT,))})


@asynccontextmanager
async def a_journal(directory: Path, files: Any = None, **more: Any) -> AsyncIterator[Journal]:
    journal = Journal(directory, files or Files(), identity=new_id(), commit_window_s=0.001, **more)
    try:
        yield journal
    finally:
        await journal.close()


def write(journal: Journal, cost: int = 1, **more: Any) -> int:
    claims = (Claim(MONTHLY, cost, False), Claim(KEYED, 2, False))
    return journal.add(ACME, "k1", claims, NOW, sidecars=3, snapshot_of=lambda _: SNAPSHOT, **more)


async def written(journal: Journal) -> None:
    async with asyncio.timeout(20):
        while journal._buffered_bytes:
            await asyncio.sleep(0.001)


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def read(path: Path) -> tuple[JournalReader, list[Entry]]:
    reader = JournalReader(path)
    return reader, [entry for chunk in reader.chunks() for entry in chunk]


async def test_entries_are_read_in_order_with_their_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_reader, "CHUNK", 7)
    async with a_journal(tmp_path / "journal") as journal:
        assert not (tmp_path / "journal").exists()  # created with the first entry
        assert [write(journal, cost) for cost in range(20)] == list(range(1, 21))
        await written(journal)
        [path] = files(tmp_path / "journal")
        assert path.stem == journal.id
        reader, entries = read(path)
    assert (reader.header, reader.invalid_lines) == (JournalHeader(path.stem, 3), 0)
    assert reader.owners == {0: Owner(ACME, "k1", (replace(MONTHLY), KEYED), (SNAPSHOT, SNAPSHOT))}
    assert [(entry.seq, entry.costs) for entry in entries] == [
        (n, (n - 1, 2)) for n in range(1, 21)
    ]
    sums = summary(path)
    assert (sums.sidecars, sums.requests) == (3, 20)
    assert list(sums.used.values()) == [(NOW, (190, 40))]


async def test_requests_in_flight_are_separate(tmp_path: Path) -> None:
    async with a_journal(tmp_path) as journal:
        write(journal, 9, hold_id="a", is_open=True)
        write(journal, 9, hold_id="b", is_open=True)
        write(journal, 5, hold_id="a")
        await written(journal)
        reader, entries = read(files(tmp_path)[0])
    assert [(entry.hold_id, entry.costs) for entry in entries] == [("a", (5, 2))]
    assert {name: entry.costs for name, entry in reader.open.items()} == {"b": (9, 2)}


async def test_a_charged_journal_is_deleted_and_the_next_entry_creates_another_file(
    tmp_path: Path,
) -> None:
    async with a_journal(tmp_path) as journal:
        write(journal)
        await written(journal)
        journal.discard()
        assert write(journal) == 2  # with the same id, so numbers go on
        await written(journal)
        reader, entries = read(files(tmp_path)[0])
        assert [entry.seq for entry in entries] == [2]
        assert reader.header == JournalHeader(journal.id, 3)
        journal.discard()
    assert not files(tmp_path)


async def test_only_journals_of_dead_processes_are_locked(tmp_path: Path) -> None:
    async with a_journal(tmp_path) as journal:
        write(journal)
        await written(journal)
        assert lock_abandoned(tmp_path) == []
        (tmp_path / "unnamed.new").touch()
        (tmp_path / "other.txt").touch()
    [(path, fd)] = lock_abandoned(tmp_path)
    assert lock_abandoned(tmp_path) == []  # one journals
    os.close(fd)
    assert path.suffix == ".journal"
    assert sorted(one.name for one in files(tmp_path)) == sorted([path.name, "other.txt"])
    assert lock_abandoned(tmp_path / "none") == []


async def test_a_torn_last_line_is_ignored_and_an_invalid_line_is_counted(tmp_path: Path) -> None:
    async with a_journal(tmp_path) as journal:
        for _ in range(5):
            write(journal)
        await written(journal)
        [path] = files(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    reader, entries = read(path)
    assert ([entry.seq for entry in entries], reader.invalid_lines) == ([1, 2, 3, 4], 0)
    lines = content.splitlines(keepends=True)
    lines[3] = b"\x00" + lines[3][1:]
    path.write_bytes(b"".join(lines))
    reader, entries = read(path)
    assert ([entry.seq for entry in entries], reader.invalid_lines) == ([1, 3, 4, 5], 1)


class Failing:
    """A disk that writes only half of the data and then fails, while `broken`."""

    def __init__(self) -> None:
        self.broken = True
        self._files = Files()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def write_all(self, fd: int, data: bytes) -> None:
        if self.broken:
            os.write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._files.write_all(fd, data)


async def test_entries_are_written_when_the_disk_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.stores.local.journal.RETRY_SECONDS", 0.01)
    disk = Failing()
    async with a_journal(tmp_path, disk) as journal:
        for _ in range(3):
            write(journal)
        async with asyncio.timeout(20):
            while not journal._failure:
                await asyncio.sleep(0.001)
        disk.broken = False
        write(journal)
        await written(journal)
        reader, entries = read(files(tmp_path)[0])
    assert ([entry.seq for entry in entries], reader.invalid_lines) == ([1, 2, 3, 4], 0)
    assert journal.unwritten == 0


async def test_I9_a_full_journal_counts_the_entries_that_it_drops(tmp_path: Path) -> None:
    async with a_journal(tmp_path, max_bytes=2_000) as journal:
        for _ in range(100):
            write(journal)
        await written(journal)
        [path] = files(tmp_path)
        reader, entries = read(path)
        assert path.stat().st_size <= 2_000
        assert len(entries) + journal.unwritten == 100
        assert reader.invalid_lines == 0
        journal.discard()
        write(journal)
        await written(journal)
        assert len(read(files(tmp_path)[0])[1]) == 1


async def test_an_owner_that_did_not_fit_is_written_before_its_next_entry(tmp_path: Path) -> None:
    async with a_journal(tmp_path, max_bytes=300) as journal:
        write(journal)
        assert journal.unwritten == 1  # the first line, the owner and the entry do not fit
        journal._max_bytes = 10_000
        write(journal)
        await written(journal)
        reader, entries = read(files(tmp_path)[0])
    assert ([entry.seq for entry in entries], reader.invalid_lines) == ([2], 0)
    assert reader.header is not None


async def test_a_missing_directory_is_a_write_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with a_journal(tmp_path / "file" / "journal") as journal:
        assert write(journal) == 1
        async with asyncio.timeout(20):
            while not journal._failure:
                await asyncio.sleep(0.001)


async def test_a_missing_snapshot_is_read_as_one(tmp_path: Path) -> None:
    async with a_journal(tmp_path) as journal:
        journal.add(
            ACME,
            "k1",
            (Claim(MONTHLY, 1, False),),
            NOW,
            sidecars=1,
            snapshot_of=lambda _: NEVER_SEEN,
        )
        await written(journal)
        reader, _ = read(files(tmp_path)[0])
    assert reader.owners[0].snapshots == (NEVER_SEEN,)


@pytest.mark.parametrize("moment", ["before it is locked", "before it has its name"])
async def test_a_journal_that_another_process_deletes_while_it_is_created_is_created_again(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_SECONDS", 3_600)
    happened: list[str] = []

    def opened(path: Path, flags: int, mode: int) -> int:
        fd = os.open(path, flags, mode)
        if path.suffix == NEW_SUFFIX and moment == "before it is locked" and not happened:
            assert lock_abandoned(tmp_path) == []
            happened.append(moment)
        return fd

    def renamed(old: Path, new: Path) -> None:
        if moment == "before it has its name" and not happened:
            old.unlink()
            happened.append(moment)
        old.rename(new)

    async with a_journal(tmp_path, Files(open=opened, rename=renamed)) as journal:
        write(journal)
        await written(journal)
        assert happened == [moment]
        assert lock_abandoned(tmp_path) == []  # it exists and is locked
        assert (tmp_path / (journal.id + SUFFIX)).exists()
