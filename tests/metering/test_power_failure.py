"""Power failures on a disk that keeps only what was synced."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from sidecar.errors import SinkDown, SinkRefused
from sidecar.metering.lane import dead_letter_path
from sidecar.metering.shipper import Shipper
from sidecar.metering.sinks.file import FileSink
from sidecar.metering.verify import verify
from tests.support.events import (
    ListSink,
    a_spool,
    an_event,
    fill,
    ids,
    lines_in,
    names_in,
    seqs,
    until,
)
from tests.support.power import Disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.close()


def requests(directory: Path) -> list[str]:
    return [one for one in ids(lines_in(directory)) if one.startswith("event-")]


@pytest.mark.parametrize("segment_bytes", [700, 1 << 20])
async def test_I4_committed_events_survive_a_power_failure_at_any_commit(
    tmp_path: Path, disk: Disk, segment_bytes: int
) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory, files=disk.files, segment_bytes=segment_bytes) as spool:
        for number in range(1, 9):
            spool.append(an_event(number))
            await spool.flush()
            left = disk.after_power_failure(directory, tmp_path / f"after-{number}")
            await fill(left, 1, first=100)
            assert requests(left) == [*(f"event-{n}" for n in range(1, number + 1)), "event-100"]
            assert verify(left).ok
            stops = [
                event["data"]["cause"]
                for event in map(orjson.loads, lines_in(left))
                if event["type"] == "sidecar.spool.unclean_stop.v1"
            ]
            assert stops == ["process"]


@pytest.mark.parametrize("ignored", ["file", "directory"])
async def test_without_syncs_of_one_kind_a_power_failure_loses_events(
    tmp_path: Path, ignored: str
) -> None:
    disk = Disk(ignored=[ignored])
    directory = tmp_path / "spool"
    async with a_spool(directory, files=disk.files) as spool:
        spool.append(an_event(1))
        await spool.flush()
        left = disk.after_power_failure(directory, tmp_path / "left")
    disk.close()
    await fill(left, 1, first=100)
    assert "event-1" not in requests(left)


async def test_I4_no_number_is_used_twice_after_shipped_segments_were_deleted(
    tmp_path: Path, disk: Disk
) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory, files=disk.files, segment_bytes=700) as spool:
        sink = ListSink()
        shipper = Shipper(spool, [sink], files=disk.files)
        shipper.start()
        for number in range(1, 10):
            spool.append(an_event(number))
            assert await shipper.drain(20)
        left = disk.after_power_failure(directory, tmp_path / "left")
        await shipper.close()
    async with a_spool(left) as again:
        assert again.next_seq >= 10
        assert again.missing == 0
    assert min(seqs(lines_in(left)), default=10) > 1


async def test_15_the_head_is_durable_before_shipped_segments_are_deleted(tmp_path: Path) -> None:
    """Otherwise the next start would report shipped events as missing."""
    disk, directory = Disk(eager=True), tmp_path / "spool"
    async with a_spool(directory, files=disk.files, segment_bytes=700) as spool:
        shipper = Shipper(spool, [ListSink()], files=disk.files)
        shipper.start()
        for number in range(1, 10):
            spool.append(an_event(number))
            assert await shipper.drain(20)
        left = disk.after_power_failure(directory, tmp_path / "left")
        await shipper.close()
    disk.close()
    async with a_spool(left) as again:
        assert again.missing == 0


async def test_15_a_power_failure_between_deletions_reports_no_shipped_event_as_missing(
    tmp_path: Path,
) -> None:
    disk, directory = Disk(eager=True), tmp_path / "spool"
    left: list[Path] = []

    def remove(path: Path) -> None:
        disk.files.remove(path)
        left.append(disk.after_power_failure(directory, tmp_path / f"left-{len(left)}"))

    files = replace(disk.files, remove=remove)
    async with a_spool(directory, files=files, segment_bytes=700) as spool:
        shipper = Shipper(spool, [ListSink()], files=files)
        shipper.start()
        for number in range(1, 6):
            spool.append(an_event(number))
            assert await shipper.drain(20)
        await shipper.close()
    disk.close()
    assert left
    for one in left:
        async with a_spool(one) as again:
            assert again.missing == 0


async def test_15_damaged_lines_are_durable_before_the_cursor_passes_them(
    tmp_path: Path, disk: Disk
) -> None:
    directory = tmp_path / "spool"
    await fill(directory, 5)
    [segment] = directory.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"event-2"', b'"event-X"'))
    sink = ListSink()
    async with a_spool(directory) as spool:
        shipper = Shipper(spool, [sink], files=disk.files)
        shipper.start()
        assert await shipper.drain(20)
        await until(lambda: spool.damaged)
        await shipper.close()
        left = disk.after_power_failure(directory, tmp_path / "left")
    assert "event-X" not in ids(sink.lines)
    [aside] = left.glob("damaged-*.bad")
    assert b'"event-X"' in aside.read_bytes()


async def test_15_a_torn_tail_is_durable_elsewhere_before_it_is_cut(
    tmp_path: Path, disk: Disk
) -> None:
    directory = tmp_path / "spool"
    await fill(directory, 3)
    [segment] = directory.glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b'{"half a line')
    kept: list[bytes] = []

    def cut(fd: int, size: int) -> None:
        if size < os.fstat(fd).st_size and not kept:
            left = disk.after_power_failure(directory, tmp_path / "left")
            kept.extend(path.read_bytes() for path in left.glob("*.bad"))
        os.ftruncate(fd, size)

    async with a_spool(directory, files=replace(disk.files, truncate=cut)):
        assert kept == [b'{"half a line']


async def test_I4_an_event_in_the_dead_letters_survives_once_the_cursor_passed_it(
    tmp_path: Path, disk: Disk
) -> None:
    directory = tmp_path / "spool"

    class Picky(ListSink):
        async def send(self, lines: "list[bytes]") -> None:  # type: ignore[override]
            if any(b'"event-2"' in line for line in lines):
                raise SinkRefused("event-2 is refused")
            await super().send(lines)

    async with a_spool(directory, files=disk.files) as spool:
        shipper = Shipper(spool, [Picky()], files=disk.files)
        shipper.start()
        for number in (1, 2, 3):
            spool.append(an_event(number))
        assert await shipper.drain(20)
        left = disk.after_power_failure(directory, tmp_path / "left")
        await shipper.close()
    assert ids(dead_letter_path(left, "list").read_bytes().split(b"\n")[:-1]) == ["event-2"]


async def test_I4_bytes_set_aside_by_a_recovery_survive_it(tmp_path: Path, disk: Disk) -> None:
    directory = tmp_path / "spool"
    await fill(directory, 3)
    [segment] = [path for path in directory.iterdir() if path.suffix == ".jsonl"]
    with segment.open("ab") as file:
        file.write(b'{"half a line')
    async with a_spool(directory, files=disk.files):
        left = disk.after_power_failure(directory, tmp_path / "left")
    [aside] = [path for path in left.iterdir() if path.suffix == ".bad"]
    assert aside.read_bytes() == b'{"half a line'


async def test_the_note_of_losses_has_its_name_before_the_first_loss(
    tmp_path: Path, disk: Disk
) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory, files=disk.files):
        left = disk.after_power_failure(directory, tmp_path / "left")
    assert {"losses.json", "head.json", ".buffer.map"} <= names_in(left)
    assert orjson.loads((left / "losses.json").read_bytes())["events"] == 0


async def test_I4_what_the_file_sink_has_stored_survives_also_in_a_new_file(
    tmp_path: Path, disk: Disk
) -> None:
    directory = tmp_path / "sink"
    directory.mkdir()
    sink = FileSink(directory / "usage.jsonl", files=disk.files)
    await sink.send([b'{"id":"1"}'])
    first = disk.after_power_failure(directory, tmp_path / "first")
    assert (first / "usage.jsonl").read_bytes() == b'{"id":"1"}\n'
    (directory / "usage.jsonl").rename(directory / "usage.jsonl.1")
    await sink.send([b'{"id":"2"}'])
    second = disk.after_power_failure(directory, tmp_path / "second")
    await sink.close()
    assert (second / "usage.jsonl").read_bytes() == b'{"id":"2"}\n'


async def test_15_a_new_file_of_the_sink_has_its_name_though_the_first_check_failed(
    tmp_path: Path, disk: Disk
) -> None:
    directory = tmp_path / "sink"
    directory.mkdir()
    faults = [errno.EIO]

    def sync(fd: int) -> None:
        if faults:
            raise OSError(faults.pop(), "Input/output error")
        disk.files.sync(fd)

    sink = FileSink(directory / "usage.jsonl", files=replace(disk.files, sync=sync))
    with pytest.raises(SinkDown):
        await sink.check()
    await sink.check()
    await sink.send([b'{"id":"1"}'])
    left = disk.after_power_failure(directory, tmp_path / "left")
    await sink.close()
    assert (left / "usage.jsonl").read_bytes() == b'{"id":"1"}\n'
