"""Recorded events: found in spools and files, read once, damage reported with file and line."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.core.events.read import UNCLEAN_STOP
from sidecar.errors import SpoolError
from sidecar.metering.event_reader import EventReader, event_files
from sidecar.metering.gaps import SequenceCoverage
from sidecar.metering.segments import list_segments
from sidecar.metering.spool import Spool
from tests.support.recorded_events import an_event


def a_line(number: int, **changes: Any) -> bytes:
    return orjson.dumps(an_event("id", f"id-{number}") | changes) + b"\n"


async def spool(directory: Path, *numbers: int, segment_bytes: int = 64 << 20) -> None:
    """A real spool with these events, closed."""
    one = Spool(directory, segment_bytes=segment_bytes)
    one.open()
    for number in numbers:
        one.append(an_event("id", f"id-{number}"))
        if segment_bytes < 1000:
            await one.flush()
    await one.close()


def ids(reader: EventReader) -> list[str]:
    return [request.id for request in reader.new_requests()]


async def test_events_of_a_spool_and_of_its_workers_are_read(tmp_path: Path) -> None:
    await spool(tmp_path / "spool", 1, 2, segment_bytes=700)
    await spool(tmp_path / "spool" / "worker-0", 3)
    await spool(tmp_path / "spool" / "worker-1", 4)
    (tmp_path / "spool" / "worker-x").mkdir()
    reader = EventReader([tmp_path / "spool"])
    assert sorted(ids(reader)) == ["id-1", "id-2", "id-3", "id-4"]
    assert (reader.summary.requests, reader.summary.broken) == (4, 0)


def test_files_of_sinks_are_read_also_rotated_and_compressed_ones(tmp_path: Path) -> None:
    (tmp_path / "usage.jsonl").write_bytes(a_line(1))
    (tmp_path / "usage.jsonl.1").write_bytes(a_line(2))
    (tmp_path / "usage.jsonl.2.gz").write_bytes(gzip.compress(a_line(3) + a_line(4)))
    (tmp_path / "notes.txt").write_text("not events")
    assert sorted(ids(EventReader([tmp_path]))) == ["id-1", "id-2", "id-3", "id-4"]
    assert ids(EventReader([tmp_path / "usage.jsonl.1"])) == ["id-2"]


def a_stop(number: int, **data: Any) -> bytes:
    event = an_event("id", f"stop-{number}") | {"type": UNCLEAN_STOP, "data": data}
    return orjson.dumps(event) + b"\n"


def test_13_each_unclean_stop_is_read_once(tmp_path: Path) -> None:
    killed = {"cause": "process", "recovered": 0, "missing": 0, "may_be_missing": 0}
    power = killed | {"cause": "machine", "may_be_missing": 7}
    lines = [a_stop(1, **killed, in_flight=3), a_stop(1, **killed, in_flight=3), a_stop(2, **power)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines) + a_line(1))
    (tmp_path / "b.jsonl").write_bytes(lines[0])
    reader = EventReader([tmp_path])
    assert ids(reader) == ["id-1"]
    stops = reader.summary.stops.values()
    assert sorted((stop.id, stop.requests) for stop in stops) == [("stop-1", 3), ("stop-2", 7)]


@pytest.mark.parametrize("number", [-1, "3", None, 2**60, 1.5, True])
def test_an_unclean_stop_with_an_invalid_number_is_a_broken_line(
    tmp_path: Path, number: Any
) -> None:
    (tmp_path / "a.jsonl").write_bytes(a_stop(1, in_flight=number))
    reader = EventReader([tmp_path])
    assert ids(reader) == []
    assert (reader.summary.broken, reader.summary.stops) == (1, {})


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(a_line(1))
    assert ids(EventReader([file, tmp_path, file])) == ["id-1"]


def test_a_second_pass_reads_only_new_events(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(a_line(1) + a_line(2)[:50])
    reader = EventReader([tmp_path])
    assert ids(reader) == ["id-1"]
    file.rename(tmp_path / "usage.jsonl.1")
    with (tmp_path / "usage.jsonl.1").open("ab") as rotated:
        rotated.write(a_line(2)[50:])
    file.write_bytes(a_line(3))
    assert sorted(ids(reader)) == ["id-2", "id-3"]
    assert ids(reader) == []
    assert reader.summary.broken == 0


def test_a_new_file_with_the_inode_of_a_deleted_one_is_read_from_its_start(tmp_path: Path) -> None:
    """Here the inode is the same, because the test overwrites the file."""
    file = tmp_path / "usage.jsonl"
    file.write_bytes(a_line(1) + a_line(2))
    reader = EventReader([tmp_path])
    assert ids(reader) == ["id-1", "id-2"]
    file.write_bytes(b'{"seq":3,' + a_line(3)[1:] + a_line(4) + a_line(5))
    assert ids(reader) == ["id-3", "id-4", "id-5"]


def test_broken_lines_are_counted_and_listed_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    bad = [b"{torn\n", b"[]\n", b"\xff\xfe\n", b'{"id": "x"}\n', b'{"type": "api.request.v1"}\n']
    file.write_bytes(a_line(1) + b"\n" + b"".join(bad) + a_line(2))
    reader = EventReader([file])
    assert ids(reader) == ["id-1", "id-2"]
    assert reader.summary.broken == len(bad)
    messages = [str(line) for line in reader.summary.broken_lines]
    assert messages[0].startswith(f"{file}:3: not JSON")
    assert [line.line for line in reader.summary.broken_lines] == [3, 4, 5, 6, 7]


def test_a_line_without_end_is_read_in_bounded_memory(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(b"x" * (3 << 20) + b"\n" + a_line(1))
    reader = EventReader([file])
    assert ids(reader) == ["id-1"]
    assert reader.summary.broken == 3  # pieces


def test_refusals_are_counted_by_account_and_other_events_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(
        a_line(1) + a_line(2, type="api.refusal.v1") + a_line(3, type="account.notice.v1")
    )
    reader = EventReader([file])
    assert ids(reader) == ["id-1"]
    assert (reader.summary.others, reader.summary.refused) == (2, {"acme": 1})


async def test_I4_missing_numbers_are_reported(tmp_path: Path) -> None:
    await spool(tmp_path, 1, 2, 3, segment_bytes=700)
    list_segments(tmp_path)[0].path.unlink()
    coverage = SequenceCoverage()
    assert len(ids(EventReader([tmp_path], coverage=coverage))) < 3
    (gap,) = coverage.missing()
    assert gap.first == 1


async def test_a_spool_without_events_is_not_an_error(tmp_path: Path) -> None:
    await spool(tmp_path)
    assert ids(EventReader([tmp_path])) == []


@pytest.mark.parametrize("name", ["", "nothing", "notes.txt"])
def test_a_path_without_events_is_an_error(tmp_path: Path, name: str) -> None:
    if name == "notes.txt":
        (tmp_path / "dir").mkdir()
        (tmp_path / "dir" / name).write_text("no")
        name = "dir"
    with pytest.raises(SpoolError, match="contains no events"):
        event_files([tmp_path / name])


def test_a_truncated_compressed_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl.gz"
    file.write_bytes(gzip.compress(a_line(1) * 100)[:-20])
    with pytest.raises(SpoolError, match="cannot be read"):
        ids(EventReader([file]))


def test_a_broken_line_of_a_later_pass_has_its_number_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(a_line(1) + a_line(2))
    reader = EventReader([tmp_path])
    assert ids(reader) == ["id-1", "id-2"]
    for number in (3, 4):
        with file.open("ab") as appended:
            appended.write(b"noise\n")
        assert ids(reader) == []
        assert reader.summary.broken_lines[-1].line == number
