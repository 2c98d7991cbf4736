"""Closing a full spool.

Events beyond `max_bytes` still reach the disk. Events that the disk refuses stay in the buffer for
the next start. Events for which the buffer has no space are dropped, and a loss event counts them.
"""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.errors import SpoolError
from sidecar.files import Files
from sidecar.metering.buffer import BUFFER_NAME
from sidecar.metering.losses import read_note
from sidecar.metering.spool import Spool
from sidecar.metering.verify import verify
from tests.support.events import a_spool, an_event, fill, ids, lines_in, seqs, until

NOTE = "losses.json"


class Full:
    """A disk without a free block while `full`: files cannot grow, but they can be overwritten."""

    def __init__(self) -> None:
        self.full = False
        self.files = Files(write=self._write, allocate=self._allocate)

    def _write(self, fd: int, data: bytes | memoryview) -> int:
        at = os.lseek(fd, 0, os.SEEK_CUR)
        appends = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        if self.full and (appends or at + len(data) > os.fstat(fd).st_size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)

    def _allocate(self, fd: int, offset: int, length: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(fd, offset, length)


def losses(directory: Path) -> list[tuple[str, int]]:
    """The id and count of each loss event."""
    events = [orjson.loads(line) for line in lines_in(directory)]
    return [
        (event["id"], event["data"]["events"])
        for event in events
        if event["type"] == "sidecar.spool.dropped.v1"
    ]


async def end_on_a_full_disk(directory: Path, *, kept: int, left: int, **options: Any) -> str:
    """Append `kept` events, then `left` events on a full disk, and close. Returns the spool id."""
    disk = Full()
    async with a_spool(directory, files=disk.files, **options) as spool:
        for number in range(1, kept + 1):
            spool.append(an_event(number))
        await spool.flush()
        disk.full = True
        for number in range(kept + 1, kept + left + 1):
            spool.append(an_event(number))
        await until(lambda: spool.write_errors)
    return spool.spool_id


async def test_I4_closing_a_spool_at_its_bound_loses_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, commit_window_s=0.001, retry_s=60, max_bytes=20_000)
    spool.open()
    while spool.accepting:
        spool.append(an_event(spool.next_seq))
        await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)
    for _ in range(30):  # critical requests continue
        spool.append(an_event(spool.next_seq))
    appended = spool.appended
    assert spool.committed < appended
    await spool.close()
    assert seqs(lines_in(tmp_path)) == list(range(1, appended + 1))
    report = verify(tmp_path)
    assert report.ok and report.dropped == 0
    async with a_spool(tmp_path, max_bytes=20_000) as again:
        assert again.next_seq == appended + 1
        again.append(an_event(again.next_seq))
        await until(lambda: not again.accepting)  # the bound applies again
    assert seqs(lines_in(tmp_path)) == list(range(1, appended + 2))


async def test_I12_closing_a_spool_on_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    await end_on_a_full_disk(tmp_path, kept=3, left=5)
    assert seqs(lines_in(tmp_path)) == [1, 2, 3]
    async with a_spool(tmp_path) as spool:
        assert spool.next_seq == 9
        assert seqs(lines_in(tmp_path)) == list(range(1, 9))
        spool.append(an_event(9))
    assert ids(lines_in(tmp_path)) == [f"event-{number}" for number in range(1, 10)]
    assert verify(tmp_path).ok and losses(tmp_path) == []
    assert not (tmp_path / BUFFER_NAME).exists()


async def test_I12_events_wait_in_the_buffer_while_the_disk_stays_full(tmp_path: Path) -> None:
    await end_on_a_full_disk(tmp_path, kept=3, left=5)
    disk = Full()
    disk.full = True
    with pytest.raises(SpoolError):  # the head cannot be written: a full disk at the start
        Spool(tmp_path, files=disk.files).open()
    disk.full = False
    async with a_spool(tmp_path, files=disk.files) as spool:
        disk.full = True
        spool.append(an_event(9))
        await until(lambda: spool.write_errors)
    assert seqs(lines_in(tmp_path)) == list(range(1, 9))
    await fill(tmp_path, 1, first=10)
    assert ids(lines_in(tmp_path)) == [f"event-{number}" for number in range(1, 11)]


async def test_dropped_events_are_noted_when_the_spool_closes(tmp_path: Path) -> None:
    await end_on_a_full_disk(tmp_path, kept=1, left=100, when_full="drop", max_waiting_bytes=8192)
    note = read_note(tmp_path)
    assert note is not None
    await fill(tmp_path, 1, first=999)
    [(_, dropped)] = losses(tmp_path)
    assert dropped == note.events > 50
    assert len(lines_in(tmp_path)) + dropped == 1 + 100 + 2
    assert verify(tmp_path).ok


async def test_I12_a_buffer_that_is_removed_while_the_disk_is_full_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = Full()
    async with a_spool(tmp_path, files=disk.files, retry_s=0.01) as spool:
        disk.full = True
        spool.append(an_event(1))
        await until(lambda: spool.write_errors)
        (tmp_path / BUFFER_NAME).unlink()
        await until(lambda: "spool_files_missing" in capsys.readouterr().out)
        disk.full = False
        await until(lambda: spool.accepting)
        assert (tmp_path / BUFFER_NAME).exists()
    assert ids(lines_in(tmp_path)) == ["event-1"]


async def test_I4_the_numbers_of_lost_events_are_not_given_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but the note knows them: a full disk takes no head, and the buffer is removed."""
    disk = Full()
    async with a_spool(tmp_path, files=disk.files, retry_s=60) as spool:
        spool.append(an_event(1))
        await spool.flush()
        disk.full = True
        for number in range(2, 6):
            spool.append(an_event(number))
        await until(lambda: spool.write_errors)
        (tmp_path / BUFFER_NAME).unlink()
        await until(lambda: "spool_files_missing" in capsys.readouterr().out)
    note = read_note(tmp_path)
    assert note is not None and (note.next_seq, note.events) == (6, 4)
    await fill(tmp_path, 1, first=6)
    assert seqs(lines_in(tmp_path))[0] == 1
    assert min(seqs(lines_in(tmp_path))[1:]) == 6
    assert [count for _, count in losses(tmp_path)] == [4]


async def test_two_loss_events_of_one_loss_have_the_same_id(tmp_path: Path) -> None:
    await end_on_a_full_disk(tmp_path, kept=1, left=100, when_full="drop", max_waiting_bytes=8192)
    note = (tmp_path / NOTE).read_bytes()
    await fill(tmp_path, 1, first=4)
    (tmp_path / NOTE).write_bytes(note)  # as after a crash before it was cleared
    await fill(tmp_path, 1, first=6)
    first, second = losses(tmp_path)
    assert first == second


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"spool":1}', b'{"events":5}', b"\x00"])
async def test_an_invalid_note_is_replaced(tmp_path: Path, content: bytes) -> None:
    await fill(tmp_path, 1)
    (tmp_path / NOTE).write_bytes(content)
    await fill(tmp_path, 1, first=2)
    assert ids(lines_in(tmp_path)) == ["event-1", "event-2"]
    assert verify(tmp_path).ok


async def test_a_note_of_another_spool_is_ignored(tmp_path: Path) -> None:
    await end_on_a_full_disk(
        tmp_path / "other", kept=1, left=100, when_full="drop", max_waiting_bytes=8192
    )
    await fill(tmp_path / "this", 1)
    (tmp_path / "this" / NOTE).write_bytes((tmp_path / "other" / NOTE).read_bytes())
    await fill(tmp_path / "this", 1, first=2)
    assert verify(tmp_path / "this").ok
    assert losses(tmp_path / "this") == []


async def test_verify_counts_the_losses_that_the_note_of_this_spool_has(tmp_path: Path) -> None:
    await fill(tmp_path, 1)
    spool = orjson.loads(lines_in(tmp_path)[0])["spool"]
    for owner, dropped in ((spool, 3), ("another", 0)):
        note = {"spool": owner, "next_seq": 9, "events": 3}
        (tmp_path / NOTE).write_bytes(orjson.dumps(note))
        assert verify(tmp_path).dropped == dropped


LIMITED = """
import asyncio, pathlib, resource, sys
from sidecar.metering.spool import Spool

async def main():
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    spool = Spool(pathlib.Path(sys.argv[1]), commit_window_s=0.001, retry_s=60)
    spool.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
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
    """Run a process with a file size limit. Returns its appended and committed events."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, timeout=60, check=True
    )
    appended, kept = map(int, done.stdout.split()[-2:])
    return appended, kept


async def test_I12_a_real_file_size_limit_at_close_loses_nothing(
    tmp_path: Path, ended_at_a_limit: tuple[int, int]
) -> None:
    appended, kept = ended_at_a_limit
    assert appended > kept > 0
    async with a_spool(tmp_path) as spool:
        assert spool.next_seq == appended + 1
    assert seqs(lines_in(tmp_path)) == list(range(1, appended + 1))
    assert verify(tmp_path).ok


async def test_a_spool_logs_how_to_free_space_before_it_is_full_and_when_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_spool(tmp_path, max_bytes=20_000) as spool:
        while spool.accepting:
            spool.append(an_event(spool.next_seq))
            await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)
            if "spool_almost_full" in capsys.readouterr().out:
                break
        assert 16_000 <= spool.bytes_on_disk < 17_000
        assert "--sinks" in spool.remedy
        while spool.accepting:
            spool.append(an_event(spool.next_seq))
            await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)
        logged = capsys.readouterr().out
    assert "spool_almost_full" not in logged  # once
    assert logged.count("spool_full") == 1
    assert "set --sinks" in logged and "--spool-max-bytes" in logged
    async with a_spool(tmp_path / "other", max_bytes=20_000) as spool:
        spool.shipped_seq = 0
        assert "sidecar_sink_lag_events" in spool.remedy
