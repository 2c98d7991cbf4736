"""RecordedRequest events are found wherever they are, read once, and damage is named by its place."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

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


def ids(history: EventReader) -> list[str]:
    return [call.id for call in history.new_requests()]


async def test_events_of_a_spool_and_of_the_spools_of_workers_are_read(tmp_path: Path) -> None:
    await spool(tmp_path / "spool", 1, 2, segment_bytes=700)
    await spool(tmp_path / "spool" / "worker-0", 3)
    await spool(tmp_path / "spool" / "worker-1", 4)
    (tmp_path / "spool" / "worker-x").mkdir()
    history = EventReader([tmp_path / "spool"])
    assert sorted(ids(history)) == ["id-1", "id-2", "id-3", "id-4"]
    assert (history.found.calls, history.found.broken) == (4, 0)


def test_files_of_sinks_are_read_rotated_and_compressed_ones_too(tmp_path: Path) -> None:
    (tmp_path / "usage.jsonl").write_bytes(a_line(1))
    (tmp_path / "usage.jsonl.1").write_bytes(a_line(2))
    (tmp_path / "usage.jsonl.2.gz").write_bytes(gzip.compress(a_line(3) + a_line(4)))
    (tmp_path / "notes.txt").write_text("not for us")
    assert sorted(ids(EventReader([tmp_path]))) == ["id-1", "id-2", "id-3", "id-4"]
    assert ids(EventReader([tmp_path / "usage.jsonl.1"])) == ["id-2"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(a_line(1))
    assert ids(EventReader([file, tmp_path, file])) == ["id-1"]


def test_only_what_is_new_is_read_the_second_time(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(a_line(1) + a_line(2)[:50])
    history = EventReader([tmp_path])
    assert ids(history) == ["id-1"]
    file.rename(tmp_path / "usage.jsonl.1")
    with (tmp_path / "usage.jsonl.1").open("ab") as rotated:
        rotated.write(a_line(2)[50:])
    file.write_bytes(a_line(3))
    assert sorted(ids(history)) == ["id-2", "id-3"]
    assert ids(history) == []
    assert history.found.broken == 0


def test_a_new_file_in_the_place_of_a_deleted_one_is_new(tmp_path: Path) -> None:
    """Its inode may be the same; here it is, since the file is written over."""
    file = tmp_path / "usage.jsonl"
    file.write_bytes(a_line(1) + a_line(2))
    history = EventReader([tmp_path])
    assert ids(history) == ["id-1", "id-2"]
    file.write_bytes(b'{"seq":3,' + a_line(3)[1:] + a_line(4) + a_line(5))
    assert ids(history) == ["id-3", "id-4", "id-5"]


def test_damage_is_counted_and_named_by_its_place(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    bad = [b"{torn\n", b"[]\n", b"\xff\xfe\n", b'{"id": "x"}\n', b'{"type": "api.request.v1"}\n']
    file.write_bytes(a_line(1) + b"\n" + b"".join(bad) + a_line(2))
    history = EventReader([file])
    assert ids(history) == ["id-1", "id-2"]
    assert history.found.broken == len(bad)
    places = [str(line).rsplit(": ", 1)[0] for line in history.found.broken_lines]
    assert places[0].startswith(f"{file}:3: no JSON")
    assert [line.line for line in history.found.broken_lines] == [3, 4, 5, 6, 7]


def test_a_line_without_an_end_is_read_in_bounded_memory(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(b"x" * (3 << 20) + b"\n" + a_line(1))
    history = EventReader([file])
    assert ids(history) == ["id-1"]
    assert history.found.broken == 3  # pieces


def test_refusals_are_counted_by_account_and_other_events_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl"
    file.write_bytes(
        a_line(1) + a_line(2, type="api.refusal.v1") + a_line(3, type="account.notice.v1")
    )
    history = EventReader([file])
    assert ids(history) == ["id-1"]
    assert (history.found.others, history.found.refused) == (2, {"acme": 1})


async def test_I4_numbers_that_are_not_there_are_told(tmp_path: Path) -> None:
    await spool(tmp_path, 1, 2, 3, segment_bytes=700)
    list_segments(tmp_path)[0].path.unlink()
    coverage = SequenceCoverage()
    assert len(ids(EventReader([tmp_path], coverage=coverage))) < 3
    (gap,) = coverage.missing()
    assert gap.first == 1


async def test_a_spool_without_events_is_one_all_the_same(tmp_path: Path) -> None:
    await spool(tmp_path)
    assert ids(EventReader([tmp_path])) == []


@pytest.mark.parametrize("name", ["", "nothing", "notes.txt"])
def test_a_path_without_events_is_a_sentence(tmp_path: Path, name: str) -> None:
    if name == "notes.txt":
        (tmp_path / "dir").mkdir()
        (tmp_path / "dir" / name).write_text("no")
        name = "dir"
    with pytest.raises(SpoolError, match="holds no events"):
        event_files([tmp_path / name])


def test_a_compressed_file_that_was_cut_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "usage.jsonl.gz"
    file.write_bytes(gzip.compress(a_line(1) * 100)[:-20])
    with pytest.raises(SpoolError, match="cannot be read"):
        ids(EventReader([file]))
