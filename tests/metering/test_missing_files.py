"""Files of an open spool that are removed, renamed or replaced: treated like a full disk."""

import contextlib
import errno
import os
from pathlib import Path

import orjson
import pytest

from sidecar.errors import SpoolError
from sidecar.files import Files
from sidecar.metering.buffer import BUFFER_NAME, HEADER_BYTES, IN_FLIGHT, IN_FLIGHT_AT
from sidecar.metering.lock import take_lock
from sidecar.metering.spool import Spool
from sidecar.metering.verify import verify
from tests.support.events import a_spool, an_event, ids, lines_in, seqs, until
from tests.support.removal import remove


def deleted_files_open(under: Path) -> list[str]:
    """The files of this process that are open and were removed."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # of the loop over the descriptors
            names.append(str(descriptor.readlink()))
    return [one for one in names if one.startswith(str(under)) and one.endswith("(deleted)")]


async def append(spool: Spool, number: int) -> None:
    spool.append(an_event(number))
    await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)


@pytest.mark.parametrize("which", ["directory", "segment", "buffer", "lock"])
async def test_I4_a_spool_whose_files_are_missing_does_not_accept(
    tmp_path: Path, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory, retry_s=60) as spool:
        await append(spool, 1)
        if which == "directory":
            remove(directory)
        else:
            segment = spool.segments[0].path.name
            name = {"buffer": BUFFER_NAME, "lock": "lock", "segment": segment}[which]
            (directory / name).unlink()
        await append(spool, 2)
        assert not spool.accepting and spool.write_errors == 1
        assert "spool_files_missing" in capsys.readouterr().out
    assert "event-2" in ids(lines_in(directory))


async def test_13_the_number_of_requests_in_flight_moves_to_a_new_buffer(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory) as spool:
        spool.in_flight[0] += 2
        before = spool.in_flight
        (directory / BUFFER_NAME).unlink()
        await append(spool, 1)
        await until(lambda: spool.accepting)
        assert spool.in_flight is not before
        spool.in_flight[0] += 1
        header = (directory / BUFFER_NAME).read_bytes()[:HEADER_BYTES]
        assert IN_FLIGHT.unpack_from(header, IN_FLIGHT_AT) == (3,)
    spool.in_flight[0] -= 3  # requests may end after the spool was closed
    assert spool.in_flight[0] == 0


async def test_a_directory_that_is_created_again_leaves_no_file_open(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory) as spool:
        for number in (1, 3):
            await append(spool, number)
            remove(directory)
            await append(spool, number + 1)
            directory.mkdir()
            await until(lambda: spool.accepting and spool.committed_seq == spool.next_seq - 1)
        assert deleted_files_open(tmp_path) == []


async def test_an_idle_spool_notices_that_its_files_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.metering.file_watch._INTERVAL_S", 0.001)
    directory = tmp_path / "spool"
    async with a_spool(directory, retry_s=60) as spool:
        await append(spool, 1)
        remove(directory)
        await until(lambda: not spool.accepting)
        assert spool.write_errors == 1


async def test_I4_a_renamed_directory_loses_nothing_once_it_is_back(tmp_path: Path) -> None:
    directory, other = tmp_path / "spool", tmp_path / "other"
    async with a_spool(directory) as spool:
        await append(spool, 1)
        directory.rename(other)
        await append(spool, 2)
        assert not spool.accepting
        spool.append(an_event(3))  # of a critical request
        other.rename(directory)
        await until(lambda: spool.accepting)
        await append(spool, 4)
        assert spool.missing == 0
    assert ids(lines_in(directory)) == [f"event-{number}" for number in (1, 2, 3, 4)]
    assert verify(directory).ok


async def test_I4_a_new_directory_gets_the_waiting_events_and_names_the_missing_ones(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory) as spool:
        await append(spool, 1)
        await append(spool, 2)
        remove(directory)
        await append(spool, 3)
        assert not spool.accepting
        directory.mkdir()
        await until(lambda: spool.accepting)
        await until(lambda: spool.committed_seq == 4)
        assert (directory / BUFFER_NAME).exists() and (directory / "lock").exists()
        assert spool.missing == 2
        await append(spool, 5)
    events = [orjson.loads(line) for line in lines_in(directory)]
    assert [event["id"] for event in events if event["type"] == "api.request.v1"] == [
        "event-3", "event-5",
    ]  # fmt: skip
    [missing] = [event["data"] for event in events if event["type"] == "sidecar.spool.missing.v1"]
    assert missing == {"first": 1, "last": 2, "cause": "absent"}
    assert seqs(lines_in(directory)) == [3, 4, 5]
    assert verify(directory).missing == 2


async def test_a_spool_that_closes_without_its_directory_creates_it_for_the_waiting_events(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory, retry_s=60) as spool:
        remove(directory)
        await append(spool, 1)
        assert not spool.accepting
    assert "event-1" in ids(lines_in(directory))


async def test_a_second_process_cannot_use_a_spool_whose_lock_was_removed(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory) as spool:
        await append(spool, 1)
        (directory / "lock").unlink()
        await append(spool, 2)
        await until(lambda: spool.accepting)
        with pytest.raises(SpoolError, match="in use by another process"):
            take_lock(directory, Files())
    assert ids(lines_in(directory)) == ["event-1", "event-2"]
    assert verify(directory).ok


@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize("idle", [True, False])
async def test_I4_lines_that_an_open_segment_has_lost_are_named(
    tmp_path: Path, left: int, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `truncate`, `> FILE` or the copytruncate of logrotate do it."""
    if idle:
        monkeypatch.setattr("sidecar.metering.file_watch._INTERVAL_S", 0.001)
    directory = tmp_path / "spool"
    async with a_spool(directory) as spool:
        for number in (1, 2, 3):
            await append(spool, number)
        segment = spool.segments[0].path
        lines = segment.read_bytes().splitlines(keepends=True)
        with segment.open("r+b") as file:
            file.truncate(sum(map(len, lines[:left])) + 5)  # a part of the next line stays
        if not idle:
            await append(spool, 4)
        await until(lambda: spool.missing == 3 - left and spool.accepting)
        await append(spool, 5)
    events = [orjson.loads(line) for line in lines_in(directory)]
    [missing] = [event["data"] for event in events if event["type"] == "sidecar.spool.missing.v1"]
    assert missing == {"first": left + 1, "last": 3, "cause": "absent"}
    requests = [event["id"] for event in events if event["type"] == "api.request.v1"]
    kept = [1, 2, 3][:left] + ([] if idle else [4]) + [5]
    assert requests == [f"event-{number}" for number in kept]
    checked = verify(directory)
    assert (checked.missing, checked.broken) == (3 - left, 0)


async def test_I4_a_segment_that_is_emptied_while_the_disk_is_full_is_not_filled_with_zeros(
    tmp_path: Path,
) -> None:
    directory, full = tmp_path / "spool", [False]

    def write(fd: int, data: bytes | memoryview) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)

    async with a_spool(directory, files=Files(write=write), retry_s=0.0) as spool:
        await append(spool, 1)
        full[0] = True
        await append(spool, 2)
        assert not spool.accepting
        os.truncate(spool.segments[0].path, 0)
        full[0] = False
        await until(lambda: spool.accepting and spool.missing == 1)
        await append(spool, 3)
    assert ids(lines_in(directory))[:3] == ["event-2", f"{spool.spool_id}-1-1-absent", "event-3"]
    assert verify(directory).broken == 0
