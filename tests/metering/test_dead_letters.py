"""Dead letters: a refused event is in the file before the cursor passes it, whatever fails."""

import asyncio
import errno
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.metering.lane import dead_letter_path
from sidecar.metering.shipper import Shipper
from tests.support.events import ListSink, a_spool, an_event, fill, ids, lines_in
from tests.support.faults import FAULTS, Fault, FaultyDisk, lines_of
from tests.support.power import Disk


async def no_pause(_seconds: float) -> None:
    await asyncio.sleep(0)


@given(faults=FAULTS, poison=st.sets(st.integers(1, 12)), batch=st.sampled_from([1, 3, 500]))
def test_15_I4_each_event_is_in_the_sink_or_in_the_dead_letters(
    faults: list[Fault], poison: set[int], batch: int
) -> None:
    sink = ListSink()
    sink.poison = {f"event-{number}" for number in poison}

    async def run(directory: Path) -> None:
        disk = FaultyDisk(faults)
        async with a_spool(directory, max_waiting_bytes=1 << 16) as spool:
            shipper = Shipper(spool, [sink], batch=batch, files=disk.files, sleep=no_pause)
            disk.armed = True
            shipper.start()
            assert await shipper.drain(30)
            await shipper.close()

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        asyncio.run(fill(directory, 12, max_waiting_bytes=1 << 16))
        asyncio.run(run(directory))
        path = dead_letter_path(directory, "list")
        dead = ids(lines_of(path)) if path.exists() and path.stat().st_size else []
    every = range(1, 13)
    assert ids(sink.lines) == [f"event-{one}" for one in every if one not in poison]
    assert list(dict.fromkeys(dead)) == [f"event-{one}" for one in every if one in poison]
    if not any(faults):
        assert len(dead) == len(poison)


@pytest.mark.parametrize(("spare", "stops"), [(0, False), (-1, True)])
async def test_I9_a_dead_letter_file_may_be_filled_exactly(
    tmp_path: Path, spare: int, stops: bool
) -> None:
    sink = ListSink()
    sink.poison = {"event-2"}
    await fill(tmp_path, 3)
    [dead] = [line for line in lines_in(tmp_path) if ids([line]) == ["event-2"]]
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [sink], dead_bytes=len(dead) + 1 + spare, sleep=no_pause)
        shipper.start()
        assert await shipper.drain(20) is not stops
        assert bool(shipper.faults) is stops
        await shipper.close()
    assert ids(sink.lines) == (["event-1"] if stops else ["event-1", "event-3"])


@pytest.mark.parametrize("kind", ["open", "write", "sync"])
async def test_15_a_dead_letter_that_cannot_be_written_holds_the_sink_and_is_there_once(
    tmp_path: Path, kind: str
) -> None:
    sink, disk = ListSink(), FaultyDisk([errno.ENOSPC] * 3, [kind])
    sink.poison = {"event-2"}
    disk.armed = True

    async with a_spool(tmp_path / "spool") as spool:
        (tmp_path / "cursors").mkdir()
        shipper = Shipper(
            spool, [sink], batch=1, files=disk.files, sleep=no_pause, directory=tmp_path / "cursors"
        )
        for number in (1, 2, 3):
            spool.append(an_event(number))
        shipper.start()
        assert await shipper.drain(20)
        await shipper.close()
    [path] = (tmp_path / "cursors").glob("*.dead.jsonl")
    assert ids(lines_of(path)) == ["event-2"]
    assert ids(sink.lines) == ["event-1", "event-3"]
    assert disk.left == 0


async def test_15_a_dead_letter_whose_sync_fails_is_not_there_twice(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    sink, path = ListSink(), dead_letter_path(tmp_path, "list")
    sink.poison = {"event-1"}
    path.write_bytes(b'{"id":"event-0"}\n')  # so that the file has its name already
    disk = FaultyDisk([errno.EIO] * 2, ["sync"])
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [sink], batch=1, files=disk.files, sleep=no_pause)
        disk.armed = True
        shipper.start()
        assert await shipper.drain(20)
        await shipper.close()
    assert ids(lines_of(path)) == ["event-0", "event-1"]
    assert (disk.left, disk.failed) == (0, 2)


async def test_15_a_line_that_a_crash_cut_is_not_joined_to_the_next_dead_letter(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, 3)
    path = dead_letter_path(tmp_path, "list")
    path.write_bytes(b'{"id":"event-0"}\n{"id":"eve')
    sink = ListSink()
    sink.poison = {"event-2"}
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [sink])
        shipper.start()
        assert await shipper.drain(20)
        await shipper.close()
    assert ids(lines_of(path)) == ["event-0", "event-2"]


@pytest.mark.parametrize(("ignored", "left"), [("file", [b""]), ("directory", [])])
async def test_15_without_syncs_of_one_kind_a_power_failure_loses_dead_letters(
    tmp_path: Path, ignored: str, left: list[bytes]
) -> None:
    """So each of the two is needed: `test_power_failure` shows that both together are enough."""
    directory, disk, none = tmp_path / "spool", Disk(), Disk(ignored=[ignored])
    sink = ListSink()
    sink.poison = {"event-2"}
    async with a_spool(directory, files=disk.files) as spool:
        shipper = Shipper(spool, [sink], files=none.files)
        for number in (1, 2):
            spool.append(an_event(number))
        shipper.start()
        assert await shipper.drain(20)
        kept = (disk if ignored == "directory" else none).after_power_failure(
            directory, tmp_path / "left"
        )
        await shipper.close()
    assert [path.read_bytes() for path in kept.glob("*.dead.jsonl")] == left
    for one in (disk, none):
        one.close()
