"""Lines that a killed process left in its buffer: recovered whole, in order, and once."""

import subprocess
import sys
from glob import glob
from pathlib import Path

import orjson
import pytest

from sidecar.files import Files
from sidecar.metering.buffer import BUFFER_NAME, LineBuffer
from sidecar.metering.segments import NO_LINE, Head, line_hash, list_segments
from sidecar.metering.unwritten import read_unwritten
from sidecar.metering.verify import verify
from tests.support.events import a_spool, fill, ids, lines_in, seqs

KILLED = """
import asyncio, os, pathlib, sys
from sidecar.metering.spool import Spool

async def main():
    spool = Spool(pathlib.Path(sys.argv[1]), commit_window_s=60)
    spool.open()
    spool.in_flight[0] += 3
    for number in range(1, int(sys.argv[2]) + 1):
        spool.append({"specversion": "1.0", "id": f"event-{number}", "type": "t"})
        if number == int(sys.argv[3]):
            await spool.flush()
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
SPOOL = "0532ff42-f49d-4ffa-9dc2-b6844ef2e2ad"


def kill(directory: Path, events: int, flushed: int) -> None:
    """Append events in a process that is then killed, long before its commit window ends."""
    script = [sys.executable, "-c", KILLED, str(directory), str(events), str(flushed)]
    assert subprocess.run(script, timeout=60, check=False).returncode == -9


def types(directory: Path) -> list[str]:
    return [orjson.loads(line)["type"] for line in lines_in(directory)]


@pytest.mark.parametrize("flushed", [0, 1, 7, 20])
async def test_I12_a_killed_process_loses_no_appended_event(tmp_path: Path, flushed: int) -> None:
    kill(tmp_path, 20, flushed)
    assert len(lines_in(tmp_path)) == flushed
    async with a_spool(tmp_path) as spool:
        assert spool.committed_seq == 21  # and the event of the unclean stop
    assert ids(lines_in(tmp_path))[:20] == [f"event-{number}" for number in range(1, 21)]
    assert seqs(lines_in(tmp_path)) == list(range(1, 22))
    stop = orjson.loads(lines_in(tmp_path)[-1])
    assert stop["type"] == "sidecar.spool.unclean_stop.v1"
    assert stop["data"] == {
        "cause": "process", "recovered": 20 - flushed, "missing": 0, "may_be_missing": 0,
        "in_flight": 3,
    }  # fmt: skip
    assert verify(tmp_path).ok
    assert not (tmp_path / BUFFER_NAME).exists()


def test_tools_that_read_all_files_of_a_spool_find_only_json(tmp_path: Path) -> None:
    """Also beside a buffer with records: log shippers and scripts read `*`."""
    kill(tmp_path, 20, 7)
    assert (tmp_path / BUFFER_NAME).exists()
    found = glob(f"{tmp_path}/**/*", recursive=True)  # noqa: PTH207 - Path.glob finds hidden files
    lines = [line for name in found for line in Path(name).read_text().splitlines()]
    assert len([orjson.loads(line) for line in lines]) >= 7


async def test_a_clean_stop_leaves_no_event_about_it(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    await fill(tmp_path, 1, first=3)
    assert types(tmp_path) == ["api.request.v1"] * 3


async def test_I12_segments_deleted_after_a_kill_are_named_by_a_usage_event(
    tmp_path: Path,
) -> None:
    kill(tmp_path, 20, 12)
    [segment] = list_segments(tmp_path)
    segment.path.unlink()
    async with a_spool(tmp_path) as spool:
        assert spool.missing == 12
    assert ids(lines_in(tmp_path))[:8] == [f"event-{number}" for number in range(13, 21)]
    missing = orjson.loads(lines_in(tmp_path)[8])
    assert missing["type"] == "sidecar.spool.missing.v1"
    assert missing["data"] == {"first": 1, "last": 12, "cause": "absent"}
    report = verify(tmp_path)
    assert (report.missing, report.broken) == (12, 0)


async def test_after_a_loss_of_power_one_batch_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(tmp_path, 20, 12)
    monkeypatch.setattr("sidecar.metering.unwritten.boot_id", lambda: "another")
    await fill(tmp_path, 1, first=21)
    [stop] = [
        event["data"]
        for event in map(orjson.loads, lines_in(tmp_path))
        if event["type"] == "sidecar.spool.unclean_stop.v1"
    ]
    assert (stop["cause"], stop["may_be_missing"]) == ("machine", 12)
    assert "in_flight" not in stop  # the number may be old


def a_line(seq: int, prev: bytes) -> bytes:
    return b'{"spool":"%b","seq":%d,"prev":"%b","id":"event-%d"}' % (
        SPOOL.encode(), seq, prev, seq,
    )  # fmt: skip


def chain(buffer: LineBuffer, first: int, last: int, prev: bytes) -> bytes:
    for seq in range(first, last + 1):
        line = a_line(seq, prev)
        prev = line_hash(line)
        assert buffer.put(line, prev, seq, len(line) + 1)
    return prev


def test_I12_a_record_torn_at_any_byte_is_ignored_and_those_before_it_count(
    tmp_path: Path,
) -> None:
    path = tmp_path / BUFFER_NAME
    buffer = LineBuffer(path, 1 << 16, Files())
    buffer.begin(SPOOL, 0)
    chain(buffer, 1, 3, NO_LINE)
    buffer.release(3, 3)  # the next lines overwrite these
    prev = chain(buffer, 4, 5, b"f" * 64)
    content = path.read_bytes()
    chain(buffer, 6, 6, prev)
    whole = path.read_bytes()
    [start, *_, end] = [at for at in range(len(whole)) if whole[at] != content[at]]
    head = Head(SPOOL, 4, b"f" * 64)
    for torn in range(start, end + 1):
        path.write_bytes(whole[:torn] + content[torn:])
        found = read_unwritten(path, head)
        assert [seq for _, seq in found.blocks] == [5]
        assert len(found.lines) == 2
    path.write_bytes(whole)
    assert len(read_unwritten(path, head).lines) == 3
    buffer.close(remove=False)


def test_a_buffer_reuses_its_blocks_in_any_order_and_refuses_what_does_not_fit(
    tmp_path: Path,
) -> None:
    path = tmp_path / BUFFER_NAME
    buffer = LineBuffer(path, 1 << 16, Files())
    buffer.begin(SPOOL, 0)
    hashes, seq, released = [NO_LINE], 0, 0
    for _ in range(30):
        before = seq
        while True:
            line = a_line(seq + 1, hashes[seq])
            if not buffer.put(line, line_hash(line), seq + 1, len(line) + 1):
                break
            hashes.append(line_hash(line))
            seq += 1
        assert seq > before
        found = read_unwritten(path, Head(SPOOL, released + 1, hashes[released]))
        assert len(found.lines) == seq - released
        assert found.head[:3] == (SPOOL, seq + 1, hashes[seq])
        released += (seq - released) // 2 + 1
        buffer.release(released, 1)
    assert seq > 1000
    buffer.close(remove=True)
    assert not path.exists()


def test_the_blocks_of_a_buffer_are_allocated_at_the_start(tmp_path: Path) -> None:
    buffer = LineBuffer(tmp_path / BUFFER_NAME, 1 << 20, Files())
    assert (tmp_path / BUFFER_NAME).stat().st_blocks * 512 >= 1 << 20
    buffer.close(remove=True)
