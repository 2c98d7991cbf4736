"""The spool: numbers, chain, commits, rotation, one owner."""

import hashlib
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from sidecar.errors import SpoolError
from sidecar.metering.segments import list_segments, read_head
from sidecar.metering.spool import Spool
from sidecar.metering.verify import verify
from tests.support.events import a_spool, an_event, fill, ids, lines_in, seqs, until


async def test_I4_every_event_is_one_numbered_line_chained_to_the_previous_one(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, 5)
    before = b"0" * 64
    for number, line in enumerate(lines_in(tmp_path), 1):
        found = orjson.loads(line)
        front = {name: found.pop(name) for name in ("spool", "seq", "prev")}
        assert front["seq"] == number
        assert front["prev"].encode() == before
        assert found == an_event(number)
        assert line.startswith(b'{"spool":"')
        before = hashlib.sha256(line).hexdigest().encode()
    assert number == 5


async def test_events_are_committed_in_one_group_without_a_flush(tmp_path: Path) -> None:
    async with a_spool(tmp_path) as spool:
        commits: list[int] = []
        spool.on_commit.append(lambda: commits.append(spool.committed))
        for number in range(1, 101):
            spool.append(an_event(number))
        assert (spool.appended, spool.committed, spool.next_seq) == (100, 0, 101)
        await until(lambda: spool.committed == 100)
        assert commits == [100]
        assert spool.bytes_on_disk == sum(len(line) + 1 for line in lines_in(tmp_path))
        assert spool.committed_seq == 100


async def test_the_time_to_the_disk_counts_from_the_oldest_event_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, times = [100.0], list[float]()
    monkeypatch.setattr("sidecar.metering.spool.perf_counter", lambda: clock[0])
    options = {"commit_window_s": 60, "observe_commit": times.append}
    async with a_spool(tmp_path, **options) as spool:
        for number, waits in ((1, 3.0), (2, 2.0), (3, 0.0)):
            spool.append(an_event(number))
            clock[0] += waits
        await spool.flush()
        assert times == [5.0]


async def test_the_chain_continues_across_restarts_and_segments(tmp_path: Path) -> None:
    for start in (1, 11, 21):
        await fill(tmp_path, 10, start, segment_bytes=1000)
    assert len(list_segments(tmp_path)) > 5
    assert seqs(lines_in(tmp_path)) == list(range(1, 31))
    assert ids(lines_in(tmp_path)) == [f"event-{n}" for n in range(1, 31)]
    report = verify(tmp_path)
    assert report.ok and (report.events, report.first_seq, report.last_seq) == (30, 1, 30)
    for segment in list_segments(tmp_path):
        assert segment.first == orjson.loads(segment.path.read_bytes().split(b"\n")[0])["seq"]


async def test_numbers_continue_after_all_segments_are_deleted(tmp_path: Path) -> None:
    await fill(tmp_path, 3)
    head = read_head(tmp_path)
    for segment in list_segments(tmp_path):
        segment.path.unlink()
    await fill(tmp_path, 2, 4)
    first = orjson.loads(lines_in(tmp_path)[0])
    assert head is not None
    assert (first["seq"], first["prev"].encode(), first["spool"]) == (4, head.prev, head.spool)


async def test_an_event_that_is_not_json_is_counted_as_dropped(tmp_path: Path) -> None:
    async with a_spool(tmp_path) as spool:
        spool.append(an_event(1, data=object()))
        spool.append(an_event(2))
        spool.append(an_event(3, data="x" * (1 << 20)))
        await spool.flush()
        assert spool.dropped == 2
    assert ids(lines_in(tmp_path))[0] == "event-2"
    assert verify(tmp_path).dropped == 2


async def test_a_spool_accepts_nothing_before_open_and_after_close(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert not spool.accepting
    spool.open()
    assert spool.accepting
    await spool.close()
    await spool.close()
    assert not spool.accepting


def test_a_second_process_in_one_directory_is_refused_with_the_pid_of_the_owner(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, pathlib; from sidecar.metering.spool import Spool\n"
        "Spool(pathlib.Path(sys.argv[1])).open(); print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout and other.stdout.readline() == b"open\n"
        with pytest.raises(SpoolError, match=rf"in use by another process \(pid {other.pid}\)"):
            Spool(tmp_path).open()
        other.communicate()
    Spool(tmp_path).open()  # unlocked again


@pytest.mark.parametrize("under", ["file", "file/below"])
def test_a_directory_that_cannot_be_created_is_an_error(tmp_path: Path, under: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SpoolError, match=r"not writable: .*--spool"):
        Spool(tmp_path / under).open()
