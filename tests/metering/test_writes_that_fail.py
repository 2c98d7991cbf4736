"""Writes that fail while other events arrive: order, numbers and the chain stay, nothing twice."""

import asyncio
import errno
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.metering.segments import list_segments
from sidecar.metering.spool import Spool
from sidecar.metering.verify import verify
from tests.support.events import a_spool, an_event, ids, lines_in, seqs, until
from tests.support.faults import FAULTS, Fault, FaultyDisk

SMALL = {"max_waiting_bytes": 1 << 16, "retry_s": 0.0, "commit_window_s": 0.0}


async def append(spool: Spool, groups: Sequence[int]) -> int:
    """Append events in groups, and let the spool work in between."""
    number = 0
    for group in groups:
        for _ in range(group):
            number += 1
            spool.append(an_event(number))
        for _ in range(3):
            await asyncio.sleep(0)
    return number


def check(directory: Path, number: int) -> None:
    """All events are there, in order, each once, in a whole chain."""
    assert ids(lines_in(directory)) == [f"event-{one}" for one in range(1, number + 1)]
    assert seqs(lines_in(directory)) == list(range(1, number + 1))
    report = verify(directory)
    assert report.ok, (report.gaps, report.breaks)


@given(
    faults=FAULTS,
    groups=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    segment_bytes=st.sampled_from([700, 1_500, 1 << 20]),
)
def test_15_I4_writes_that_fail_while_events_arrive_lose_and_repeat_none(
    faults: list[Fault], groups: list[int], segment_bytes: int
) -> None:
    async def run(directory: Path) -> int:
        disk = FaultyDisk(faults)
        async with a_spool(
            directory, files=disk.files, segment_bytes=segment_bytes, **SMALL
        ) as spool:
            disk.armed = True
            number = await append(spool, groups)
            await until(lambda: spool.committed_seq == number)
            assert spool.write_errors <= disk.failed
            disk.armed = False
        return number

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "spool"
        check(directory, asyncio.run(run(directory)))


@pytest.mark.parametrize("kind", ["write", "sync", "truncate"])
@pytest.mark.parametrize("failures", [1, 2, 5])
async def test_15_a_batch_that_fails_is_written_before_those_that_came_later(
    tmp_path: Path, kind: str, failures: int
) -> None:
    faults: list[Fault] = [errno.EIO] * failures
    disk = FaultyDisk(faults, [kind] if kind != "truncate" else ["write", "truncate"])
    async with a_spool(tmp_path, files=disk.files, **SMALL) as spool:
        disk.armed = True
        spool.append(an_event(1))
        await until(lambda: disk.failed)
        spool.append(an_event(2))
        spool.append(an_event(3))
        await until(lambda: spool.committed_seq == 3)
        disk.armed = False
        assert spool.accepting
    check(tmp_path, 3)
    assert disk.left == 0


async def test_15_a_spool_that_stops_while_writes_fail_keeps_the_lines_for_its_next_start(
    tmp_path: Path,
) -> None:
    disk = FaultyDisk([errno.ENOSPC] * 1_000, ["write", "sync"])
    async with a_spool(tmp_path, files=disk.files, **SMALL) as spool:
        await append(spool, [2, 2])
        await spool.flush()
        disk.armed = True
        for number in (5, 6, 7):
            spool.append(an_event(number))
        await until(lambda: not spool.accepting)
    async with a_spool(tmp_path) as spool:
        spool.append(an_event(8))
    check(tmp_path, 8)


async def test_a_failed_deletion_does_not_stop_the_next_one(tmp_path: Path) -> None:
    disk = FaultyDisk([errno.EIO], ["rename"])
    async with a_spool(tmp_path, segment_bytes=300, files=disk.files) as spool:
        for number in range(1, 7):
            spool.append(an_event(number))
            await spool.flush()
        before, errors = len(list_segments(tmp_path)), spool.write_errors
        disk.armed = True
        await spool.release(spool.segments[-1].first)
        assert (len(list_segments(tmp_path)), spool.write_errors) == (before, errors + 1)
        await spool.release(spool.segments[-1].first)
        assert len(list_segments(tmp_path)) == len(spool.segments) == 1
