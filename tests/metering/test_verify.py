"""Verification of a spool."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.errors import SpoolError
from sidecar.files import Files
from sidecar.metering.segments import RawLine, list_segments, raw_lines, read_head, write_head
from sidecar.metering.verify import verify
from tests.support.events import fill


async def test_I4_a_removed_line_is_a_gap_with_file_and_line(tmp_path: Path) -> None:
    await fill(tmp_path, 6)
    path = list_segments(tmp_path)[0].path
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:2] + kept[4:]))
    report = verify(tmp_path)
    assert (report.ok, report.events, report.missing, report.broken) == (False, 4, 2, 0)
    assert [str(gap) for gap in report.gaps] == [f"{path.name}:3: events 3 to 4 are missing"]


async def test_I4_a_removed_segment_is_a_gap_also_if_it_is_the_oldest(tmp_path: Path) -> None:
    await fill(tmp_path, 12, segment_bytes=700)
    segments = list_segments(tmp_path)
    segments[0].path.unlink()
    oldest = segments[1].first - segments[0].first
    assert verify(tmp_path).missing == oldest
    segments[2].path.unlink()
    assert verify(tmp_path).missing == oldest + segments[3].first - segments[2].first


async def test_reordered_lines_and_noise_are_breaks(tmp_path: Path) -> None:
    await fill(tmp_path, 4)
    path = list_segments(tmp_path)[0].path
    first, second, third, fourth = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + third + second + b"noise\n" + fourth)
    report = verify(tmp_path)
    assert not report.ok
    assert any("seq 2 follows 3" in str(one) for one in report.breaks)
    assert any(str(one) == f"{path.name}:4: not an event of a spool" for one in report.breaks)


async def test_a_last_line_changed_after_a_clean_stop_is_a_break(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    path = list_segments(tmp_path)[0].path
    path.write_bytes(path.read_bytes().replace(b"event-2", b"event-X"))
    assert [one.line for one in verify(tmp_path).breaks] == [2]


async def test_all_problems_are_counted_and_the_first_hundred_listed(tmp_path: Path) -> None:
    await fill(tmp_path, 1)
    with list_segments(tmp_path)[0].path.open("ab") as file:
        file.write(b"noise\n" * 150)
    report = verify(tmp_path)
    assert report.broken == 150 and len(report.breaks) == 100


async def test_an_unfinished_last_line_is_a_torn_tail_and_not_a_fault(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    with list_segments(tmp_path)[0].path.open("ab") as file:
        file.write(b'{"spool":')
    report = verify(tmp_path)
    assert report.ok and report.torn_bytes == 9


def test_a_directory_without_a_spool_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="is not a spool"):
        verify(tmp_path)
    with pytest.raises(SpoolError, match="cannot be read"):
        verify(tmp_path / "missing")


async def test_segments_that_are_shipped_and_deleted_during_verification_are_not_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path, 12, segment_bytes=700)
    first, second, third, *_ = list_segments(tmp_path)

    def delete_before_reading(path: Path) -> Iterator[RawLine]:
        """As if the sink had stored two segments while the first one was read."""
        yield from raw_lines(path)
        if path == first.path:
            first.path.unlink()
            second.path.unlink()
            head = read_head(tmp_path)
            assert head is not None
            write_head(Files(), tmp_path, head._replace(first=third.first))

    monkeypatch.setattr("sidecar.metering.verify.raw_lines", delete_before_reading)
    report = verify(tmp_path)
    assert (report.missing, report.broken) == (0, 0)
    assert report.events == 12 - (third.first - second.first)
