"""Gaps that a usage event names: no later start names them again, whenever a process is killed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.metering.recovery import MissingEvents, _is_recorded
from sidecar.metering.segments import list_segments, read_head
from sidecar.metering.spool import Spool
from sidecar.metering.verify import verify
from tests.support.events import a_spool, an_event, fill, lines_in, seqs, until
from tests.support.removal import remove

REMOVED = """
import asyncio, os, pathlib, sys
from sidecar.metering.spool import Spool

async def main():
    directory, committed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    spool = Spool(directory, retry_s=0.001, source="/sidecar/test")
    spool.open()
    for number in range(20):
        spool.append({"specversion": "1.0", "id": f"event-{number}", "type": "t"})
    await spool.flush()
    directory.rename(f"{directory}.removed")
    directory.mkdir()
    spool.append({"specversion": "1.0", "id": "event-20", "type": "t"})
    while spool.accepting:
        await asyncio.sleep(0)
    while spool.missing == 0 or spool.committed_seq < committed:
        await asyncio.sleep(0)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
STARTED = """
import os, pathlib, sys
from sidecar.metering.spool import Spool

spool = Spool(pathlib.Path(sys.argv[1]), source="/sidecar/test")
spool.open()
os.kill(os.getpid(), 9)
"""


def killed(script: str, *arguments: object) -> None:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9


def data_of(directory: Path, kind: str) -> list[dict[str, Any]]:
    events = map(orjson.loads, lines_in(directory))
    return [event["data"] for event in events if event["type"] == f"sidecar.spool.{kind}.v1"]


@pytest.mark.parametrize("committed", [0, 22])
async def test_I4_a_gap_of_a_new_directory_is_named_once_by_all_starts(
    tmp_path: Path, committed: int
) -> None:
    """Killed while the event about the gap is in the buffer only, and after it is on disk."""
    directory = tmp_path / "spool"
    killed(REMOVED, directory, committed)
    for _ in range(3):
        killed(STARTED, directory)
    async with a_spool(directory) as spool:
        assert spool.missing == 0
    assert data_of(directory, "missing") == [{"first": 1, "last": 20, "cause": "absent"}]
    stops = data_of(directory, "unclean_stop")
    assert [(stop["missing"], stop["may_be_missing"]) for stop in stops] == [(0, 0)] * 4
    report = verify(directory)
    assert (report.missing, report.broken) == (20, 0)


async def test_I4_a_gap_that_a_start_finds_is_not_found_by_the_next_ones(tmp_path: Path) -> None:
    for start in range(4):
        await fill(tmp_path, 2, first=1 + 2 * start, segment_bytes=1)
    for segment in list_segments(tmp_path)[:2]:
        segment.path.unlink()
    for _ in range(3):
        killed(STARTED, tmp_path)
    assert data_of(tmp_path, "missing") == [{"first": 1, "last": 2, "cause": "absent"}]
    assert [stop["missing"] for stop in data_of(tmp_path, "unclean_stop")] == [0, 0]
    list_segments(tmp_path)[0].path.unlink()
    killed(STARTED, tmp_path)
    killed(STARTED, tmp_path)
    assert data_of(tmp_path, "missing") == [
        {"first": 1, "last": 2, "cause": "absent"}, {"first": 3, "last": 3, "cause": "absent"},
    ]  # fmt: skip
    assert verify(tmp_path).missing == 3


async def test_I4_a_directory_that_is_removed_again_names_only_the_events_since_then(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory) as spool:
        await _append(spool, 1)
        await _renew(directory, spool, 2)  # events 2 and 3: the second names the gap
        await _renew(directory, spool, 4)
    missing = data_of(directory, "missing")
    assert missing == [{"first": 2, "last": 3, "cause": "absent"}]
    assert seqs(lines_in(directory)) == [4, 5]


async def test_I4_a_directory_whose_events_were_all_shipped_has_no_gap(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory) as spool:
        await _append(spool, 1)
        spool.shipped_seq = 1
        await _renew(directory, spool, 2)
        await until(lambda: (head := read_head(directory)) is not None and head.first == 2)
    killed(STARTED, directory)
    assert data_of(directory, "missing") == []


async def _append(spool: Spool, number: int) -> None:
    spool.append(an_event(number))
    await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)


def _create(directory: Path) -> None:
    directory.mkdir()


async def _renew(directory: Path, spool: Spool, number: int) -> None:
    """Remove and make the directory; the next event is written there, after those about it."""
    remove(directory)
    await _append(spool, number)
    _create(directory)
    await until(lambda: spool.accepting and spool.committed_seq == spool.next_seq - 1)


def test_a_gap_whose_start_the_sinks_have_is_recorded() -> None:
    recorded = [MissingEvents(3, 4), MissingEvents(8, 9)]
    for gap, expected in (((1, 4), True), ((3, 4), True), ((3, 5), False), ((8, 10), False)):
        assert _is_recorded(MissingEvents(*gap), recorded) is expected
