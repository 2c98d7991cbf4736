"""Files of an open spool that are removed, renamed or replaced: treated like a full disk."""

from pathlib import Path

import orjson
import pytest

from sidecar.metering.buffer import BUFFER_NAME, HEADER_BYTES, IN_FLIGHT, IN_FLIGHT_AT
from sidecar.metering.spool import Spool
from sidecar.metering.verify import verify
from tests.support.events import a_spool, an_event, ids, lines_in, seqs, until
from tests.support.removal import remove


async def append(spool: Spool, number: int) -> None:
    spool.append(an_event(number))
    await until(lambda: spool.committed_seq == spool.next_seq - 1 or not spool.accepting)


@pytest.mark.parametrize("which", ["directory", "segment", "buffer"])
async def test_I4_a_spool_whose_files_are_missing_does_not_accept(
    tmp_path: Path, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "spool"
    async with a_spool(directory, retry_s=60) as spool:
        await append(spool, 1)
        if which == "directory":
            remove(directory)
        else:
            name = BUFFER_NAME if which == "buffer" else spool.segments[0].path.name
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
