"""What an auditor is told, and what `tail` shows."""

import asyncio
from pathlib import Path

import pytest

from sidecar.errors import SpoolError
from sidecar.metering.segments import list_segments
from sidecar.metering.verify import tail, verify
from tests.support.events import a_spool, an_event, fill, ids, seqs


async def shown(directory: Path, n: int) -> list[bytes]:
    return [line async for line in tail(directory, n)]


async def test_I4_a_line_taken_out_is_a_gap_with_its_place(tmp_path: Path) -> None:
    await fill(tmp_path, 6)
    path = list_segments(tmp_path)[0].path
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept[:2] + kept[4:]))
    report = verify(tmp_path)
    assert (report.ok, report.events, report.missing, report.broken) == (False, 4, 2, 0)
    assert [str(gap) for gap in report.gaps] == [f"{path.name}:3: events 3 to 4 are missing"]


async def test_I4_a_segment_taken_out_is_a_gap_and_shipped_ones_are_not(tmp_path: Path) -> None:
    await fill(tmp_path, 12, segment_bytes=700)
    segments = list_segments(tmp_path)
    segments[0].path.unlink()
    assert verify(tmp_path).ok
    segments[2].path.unlink()
    assert verify(tmp_path).missing == segments[3].first - segments[2].first


async def test_lines_in_another_order_and_noise_are_breaks(tmp_path: Path) -> None:
    await fill(tmp_path, 4)
    path = list_segments(tmp_path)[0].path
    first, second, third, fourth = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + third + second + b"noise\n" + fourth)
    report = verify(tmp_path)
    assert not report.ok
    assert any("seq 2 comes after 3" in str(one) for one in report.breaks)
    assert any(str(one) == f"{path.name}:4: not an event of a spool" for one in report.breaks)


async def test_the_last_line_altered_after_a_clean_stop_is_a_break(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    path = list_segments(tmp_path)[0].path
    path.write_bytes(path.read_bytes().replace(b"event-2", b"event-X"))
    assert [one.line for one in verify(tmp_path).breaks] == [2]


async def test_problems_are_all_counted_and_only_the_first_hundred_listed(tmp_path: Path) -> None:
    await fill(tmp_path, 1)
    with list_segments(tmp_path)[0].path.open("ab") as file:
        file.write(b"noise\n" * 150)
    report = verify(tmp_path)
    assert report.broken == 150 and len(report.breaks) == 100


async def test_a_line_being_written_is_a_torn_tail_and_not_a_fault(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    with list_segments(tmp_path)[0].path.open("ab") as file:
        file.write(b'{"spool":')
    report = verify(tmp_path)
    assert report.ok and report.torn_bytes == 9


def test_a_directory_without_a_spool_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="holds no spool"):
        verify(tmp_path)
    with pytest.raises(SpoolError, match="cannot be read"):
        verify(tmp_path / "missing")


async def test_tail_shows_the_last_lines_across_segments(tmp_path: Path) -> None:
    await fill(tmp_path, 9, segment_bytes=700)
    assert seqs(await shown(tmp_path, 5)) == [5, 6, 7, 8, 9]
    assert seqs(await shown(tmp_path, 50)) == list(range(1, 10))
    assert await shown(tmp_path, 0) == []


async def test_tail_follows_into_new_segments_and_past_deleted_ones(tmp_path: Path) -> None:
    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    async with a_spool(tmp_path, segment_bytes=700) as spool:
        spool.append(an_event(1))
        await spool.flush()
        following = tail(tmp_path, 1, follow=True, sleep=sleep)
        seen = [await anext(following)]
        for number in range(2, 9):
            spool.append(an_event(number))
            await spool.flush()
            seen.append(await anext(following))
        await spool.release(spool.segments[-1].first)
        spool.append(an_event(9))
        await spool.flush()
        seen.append(await anext(following))
        await following.aclose()
    assert ids(seen) == [f"event-{number}" for number in range(1, 10)]
