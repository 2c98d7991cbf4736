"""A full disk with both policies: with failing system calls and with a real file size limit."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.errors import SpoolError
from sidecar.files import Files
from sidecar.metering.capacity import Capacity
from sidecar.metering.shipper import Shipper
from sidecar.metering.verify import verify
from tests.support.events import ListSink, a_spool, an_event, ids, lines_in, seqs, until


class Disk:
    """Real file operations that fail while `error` is set, after `accepted` bytes."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.accepted = 0

    def _or_fail(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))
            return real(*args)

        return call

    def write(self, fd: int, data: bytes | memoryview) -> int:
        if self.error is not None and self.accepted:
            accepted, self.accepted = self.accepted, 0
            return os.write(fd, data[:accepted])
        return int(self._or_fail(os.write)(fd, data))

    def files(self, failing: str) -> Files:
        if failing == "write":
            return Files(write=self.write)
        return Files(sync=self._or_fail(os.fdatasync))


@pytest.mark.parametrize("failing", ["write", "sync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO])
async def test_I4_refuse_stops_accepting_and_writes_appended_events_when_there_is_space(
    tmp_path: Path, failing: str, code: int
) -> None:
    disk = Disk()
    async with a_spool(tmp_path, files=disk.files(failing)) as spool:
        spool.append(an_event(1))
        await spool.flush()
        disk.error, disk.accepted = code, 100
        spool.append(an_event(2))
        await until(lambda: spool.write_errors > 2)
        assert not spool.accepting
        assert ids(lines_in(tmp_path)) == ["event-1"]  # never half a line
        spool.append(an_event(3))  # of a critical request
        with pytest.raises(SpoolError, match="cannot be written"):
            await spool.flush()
        disk.error = None
        await until(lambda: spool.committed == 3)
        assert spool.accepting and spool.dropped == 0
    assert seqs(lines_in(tmp_path)) == [1, 2, 3]
    assert verify(tmp_path).ok


async def test_I4_drop_keeps_accepting_and_a_loss_event_proves_the_number_of_lost_events(
    tmp_path: Path,
) -> None:
    disk = Disk()
    async with a_spool(
        tmp_path, files=disk.files("write"), when_full="drop", max_waiting_bytes=8192
    ) as spool:
        disk.error = errno.ENOSPC
        for number in range(1, 101):
            spool.append(an_event(number))
        await until(lambda: spool.write_errors)
        assert spool.accepting
        kept = spool.appended
        assert 0 < kept < 100 and spool.dropped == 100 - kept
        disk.error = None
        await until(lambda: spool.committed == kept + 1)
    last = orjson.loads(lines_in(tmp_path)[-1])
    assert (last["type"], last["data"]) == ("sidecar.spool.dropped.v1", {"events": 100 - kept})
    report = verify(tmp_path)
    assert report.ok and report.dropped == 100 - kept


async def test_refuse_stops_accepting_at_half_the_buffer_and_still_appends_critical_events(
    tmp_path: Path,
) -> None:
    async with a_spool(tmp_path, max_waiting_bytes=8192) as spool:
        while spool.accepting:
            spool.append(an_event(spool.next_seq))
        spool.append(an_event(spool.next_seq))
        assert spool.dropped == 0
        await spool.flush()
        assert spool.accepting


async def test_a_spool_at_its_bound_accepts_events_again_after_a_sink_has_stored_old_ones(
    tmp_path: Path,
) -> None:
    sink = ListSink()
    sink.down = True
    async with a_spool(tmp_path, max_bytes=20_000) as spool:
        shipper = Shipper(spool, [sink], random=lambda: 0.0)
        shipper.start()
        while spool.accepting:
            spool.append(an_event(spool.next_seq))
            await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)
        assert spool.bytes_on_disk <= 20_000
        assert spool.backlog == spool.next_seq - 1 == shipper.lag["list"]
        sink.down = False
        await until(lambda: spool.accepting and spool.bytes_on_disk < 10_000)
        assert await shipper.drain(10)
        await shipper.close()
        assert ids(sink.lines) == [f"event-{n}" for n in range(1, spool.next_seq)]
    assert verify(tmp_path).ok


LIMITED = """
import asyncio, pathlib, resource, sys
from sidecar.metering.spool import Spool

async def main():
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    spool = Spool(pathlib.Path(sys.argv[1]), commit_window_s=0.001, retry_s=0.005)
    spool.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    number = 0
    while spool.accepting:
        number += 1
        spool.append({"specversion": "1.0", "id": f"event-{number}", "data": "x" * 50})
        while spool.committed < number and spool.accepting:
            await asyncio.sleep(0.001)
    for line in pathlib.Path(spool.segments[0].path).read_bytes().splitlines(keepends=True):
        assert line.endswith(b"}\\n"), line
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    while not spool.accepting:
        await asyncio.sleep(0.001)
    await spool.close()
    print(spool.write_errors > 0, spool.committed == number, number)

asyncio.run(main())
"""


def test_I4_a_real_file_size_limit_leaves_whole_lines_and_loses_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, timeout=60, check=True
    )
    failed, all_there, number = done.stdout.split()[-3:]
    assert (failed, all_there) == (b"True", b"True")
    assert seqs(lines_in(tmp_path)) == list(range(1, int(number) + 1))
    assert verify(tmp_path).ok


async def test_a_spool_may_be_filled_exactly(tmp_path: Path) -> None:
    async with a_spool(tmp_path / "larger") as spool:
        spool.append(an_event(1))
        await spool.flush()
        size = spool.bytes_on_disk
    for less in (0, 1):
        async with a_spool(tmp_path / f"less-{less}", max_bytes=size - less) as spool:
            spool.append(an_event(1))
            await until(lambda: spool.committed_seq == 1 or not spool.accepting)
            assert (spool.committed_seq, spool.accepting) == ((0, False) if less else (1, True))


async def test_freed_space_is_used_at_once(tmp_path: Path) -> None:
    options = {"max_bytes": 4_000, "segment_bytes": 500, "retry_s": 600}
    async with a_spool(tmp_path, **options) as spool:
        number = 0
        while spool.accepting:
            number += 1
            spool.append(an_event(number))
            await until(lambda: spool.committed == spool.appended or not spool.accepting)
        await spool.release(spool.segments[-1].first)
        await until(lambda: spool.accepting)
        assert spool.committed == number


def test_a_spool_that_is_almost_full_again_is_logged_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capacity = Capacity(tmp_path, 1_000, "refuse")
    seen = 0
    for size, logged in ((799, 0), (1, 1), (100, 1), (-50, 1), (50, 1), (-500, 1), (400, 2)):
        if size > 0:
            capacity.add(size)
        else:
            capacity.free(-size)
        out = capsys.readouterr().out
        seen += out.count("spool_almost_full")
        assert seen == logged, size
