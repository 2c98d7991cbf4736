"""The last events of a spool, and new ones."""

import asyncio
from pathlib import Path

from sidecar.metering.tail import last_lines
from tests.support.events import a_spool, an_event, fill, ids, seqs


async def shown(directory: Path, count: int) -> list[bytes]:
    return [line async for line in last_lines(directory, count)]


async def test_the_last_lines_span_segments(tmp_path: Path) -> None:
    await fill(tmp_path, 9, segment_bytes=700)
    assert seqs(await shown(tmp_path, 5)) == [5, 6, 7, 8, 9]
    assert seqs(await shown(tmp_path, 50)) == list(range(1, 10))
    assert await shown(tmp_path, 0) == []


async def test_following_continues_into_new_segments_and_past_deleted_ones(tmp_path: Path) -> None:
    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0)

    async with a_spool(tmp_path, segment_bytes=700) as spool:
        spool.append(an_event(1))
        await spool.flush()
        following = last_lines(tmp_path, 1, follow=True, sleep=sleep)
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
