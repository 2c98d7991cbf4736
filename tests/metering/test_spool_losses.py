"""The end of a spool that is full: what our own bound held back is kept, and what the disk itself
refuses leaves a gap in the numbers and an event that counts it."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.files import Files
from sidecar.metering.losses import read_note
from sidecar.metering.spool import Spool
from sidecar.metering.verify import verify
from tests.support.events import a_spool, an_event, fill, ids, lines_in, seqs, until

NOTE = "losses.json"


class Full:
    """A disk without a free block while `full`: files do not grow, what is there can be changed."""

    def __init__(self) -> None:
        self.full = False
        self.files = Files(write=self._write)

    def _write(self, fd: int, data: bytes | memoryview) -> int:
        at = os.lseek(fd, 0, os.SEEK_CUR)
        appends = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        if self.full and (appends or at + len(data) > os.fstat(fd).st_size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)


def losses(directory: Path) -> list[tuple[str, int]]:
    """Identity and count of the events that prove losses."""
    events = [orjson.loads(line) for line in lines_in(directory)]
    return [
        (event["id"], event["data"]["events"])
        for event in events
        if event["type"] == "sidecar.spool.dropped.v1"
    ]


async def end_on_a_full_disk(directory: Path, *, kept: int, lost: int, **options: Any) -> str:
    """So many events on disk, then so many that it did not take. Returns the spool's id."""
    disk = Full()
    async with a_spool(directory, files=disk.files, **options) as spool:
        for number in range(1, kept + 1):
            spool.append(an_event(number))
        await spool.flush()
        disk.full = True
        for number in range(kept + 1, kept + lost + 1):
            spool.append(an_event(number))
        await until(lambda: spool.write_errors)
    return spool.spool_id


async def test_I4_an_end_at_the_spools_own_bound_loses_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, commit_window_s=0.001, retry_s=60, max_bytes=20_000)
    spool.open()
    while spool.accepting:
        spool.append(an_event(spool.next_seq))
        await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)
    for _ in range(30):  # critical calls go on
        spool.append(an_event(spool.next_seq))
    taken = spool.appended
    assert spool.committed < taken
    await spool.close()
    assert seqs(lines_in(tmp_path)) == list(range(1, taken + 1))
    report = verify(tmp_path)
    assert report.ok and report.dropped == 0
    async with a_spool(tmp_path, max_bytes=20_000) as again:
        assert again.next_seq == taken + 1
        again.append(an_event(again.next_seq))
        await until(lambda: not again.accepting)  # the bound is one again
    assert seqs(lines_in(tmp_path)) == list(range(1, taken + 2))


async def test_I4_what_a_full_disk_did_not_take_at_the_end_is_proven_by_the_next_start(
    tmp_path: Path,
) -> None:
    spool_id = await end_on_a_full_disk(tmp_path, kept=3, lost=5)
    assert seqs(lines_in(tmp_path)) == [1, 2, 3]
    assert verify(tmp_path).dropped == 5  # from the note
    async with a_spool(tmp_path) as spool:
        assert spool.next_seq == 9  # no number is used twice
        spool.append(an_event(9))
    assert seqs(lines_in(tmp_path)) == [1, 2, 3, 9, 10]
    assert losses(tmp_path) == [(f"{spool_id}-9-lost", 5)]
    report = verify(tmp_path)
    assert (report.missing, report.dropped, report.broken) == (5, 5, 0)
    assert [(gap.first, gap.last) for gap in report.gaps] == [(4, 8)]
    assert read_note(tmp_path) is None
    await fill(tmp_path, 2, first=11)
    assert losses(tmp_path) == [(f"{spool_id}-9-lost", 5)]
    assert verify(tmp_path).broken == 0


async def test_I4_a_loss_is_proven_also_when_no_call_comes(tmp_path: Path) -> None:
    spool_id = await end_on_a_full_disk(tmp_path, kept=1, lost=2)
    async with a_spool(tmp_path):
        pass
    assert losses(tmp_path) == [(f"{spool_id}-4-lost", 2)]


async def test_I4_a_disk_that_stays_full_adds_up_until_it_takes_something(tmp_path: Path) -> None:
    await end_on_a_full_disk(tmp_path, kept=3, lost=5)
    disk = Full()
    async with a_spool(tmp_path, files=disk.files) as spool:
        disk.full = True
        spool.append(an_event(9))
        await until(lambda: spool.write_errors)
    note = read_note(tmp_path)
    assert note is not None and (note.next_seq, note.events) == (10, 6)
    await fill(tmp_path, 1, first=10)
    assert [count for _, count in losses(tmp_path)] == [6]


async def test_a_loss_that_is_told_twice_has_one_identity(tmp_path: Path) -> None:
    await end_on_a_full_disk(tmp_path, kept=1, lost=2)
    note = (tmp_path / NOTE).read_bytes()
    await fill(tmp_path, 1, first=4)
    (tmp_path / NOTE).write_bytes(note)  # as after a crash before it was cleared
    await fill(tmp_path, 1, first=6)
    first, second = losses(tmp_path)
    assert first == second


async def test_events_dropped_for_want_of_room_are_not_forgotten_at_the_end(tmp_path: Path) -> None:
    await end_on_a_full_disk(tmp_path, kept=1, lost=100, when_full="drop", max_waiting_bytes=8192)
    await fill(tmp_path, 1, first=999)
    assert [count for _, count in losses(tmp_path)] == [100]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"spool":1}', b'{"events":5}', b"\x00"])
async def test_a_note_that_is_none_is_replaced(tmp_path: Path, content: bytes) -> None:
    await fill(tmp_path, 1)
    (tmp_path / NOTE).write_bytes(content)
    await fill(tmp_path, 1, first=2)
    assert ids(lines_in(tmp_path)) == ["event-1", "event-2"]
    assert verify(tmp_path).ok


async def test_a_note_of_another_spool_says_nothing_of_this_one(tmp_path: Path) -> None:
    await end_on_a_full_disk(tmp_path / "other", kept=1, lost=2)
    await fill(tmp_path / "this", 1)
    (tmp_path / "this" / NOTE).write_bytes((tmp_path / "other" / NOTE).read_bytes())
    await fill(tmp_path / "this", 1, first=2)
    assert verify(tmp_path / "this").ok
    assert losses(tmp_path / "this") == []


LIMITED = """
import asyncio, pathlib, resource, sys
from sidecar.metering.spool import Spool

async def main():
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    spool = Spool(pathlib.Path(sys.argv[1]), commit_window_s=0.001, retry_s=60)
    spool.open()
    while spool.accepting:
        spool.append({"specversion": "1.0", "type": "t", "id": str(spool.next_seq), "d": "x" * 50})
        while spool.committed < spool.appended and spool.accepting:
            await asyncio.sleep(0.001)
    await spool.close()
    print(spool.appended, spool.committed)

asyncio.run(main())
"""


@pytest.fixture
def ended_at_a_limit(tmp_path: Path) -> tuple[int, int]:
    """How many events a process took that the system let write no more, and how many it kept."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, timeout=60, check=True
    )
    taken, kept = map(int, done.stdout.split()[-2:])
    return taken, kept


async def test_I4_a_real_file_size_limit_at_the_end_leaves_a_gap_that_is_counted(
    tmp_path: Path, ended_at_a_limit: tuple[int, int]
) -> None:
    taken, kept = ended_at_a_limit
    assert taken > kept > 0
    async with a_spool(tmp_path) as spool:
        assert spool.next_seq == taken + 1
    [(_, count)] = losses(tmp_path)
    assert count == taken - kept
    report = verify(tmp_path)
    assert (report.missing, report.dropped) == (taken - kept, taken - kept)


async def test_a_spool_says_how_to_make_room_before_it_is_full_and_when_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_spool(tmp_path, max_bytes=20_000) as spool:
        while spool.accepting:
            spool.append(an_event(spool.next_seq))
            await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)
            said = "spool_almost_full" in capsys.readouterr().out
            if said:
                break
        assert 16_000 <= spool.bytes_on_disk < 17_000
        assert "--sinks" in spool.remedy
        while spool.accepting:
            spool.append(an_event(spool.next_seq))
            await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)
        logged = capsys.readouterr().out
    assert "spool_almost_full" not in logged  # once
    assert logged.count("spool_full") == 1
    assert "give --sinks" in logged and "--spool-max-bytes" in logged
    async with a_spool(tmp_path / "other", max_bytes=20_000) as spool:
        spool.shipped_seq = 0
        assert "sidecar_sink_lag_events" in spool.remedy
