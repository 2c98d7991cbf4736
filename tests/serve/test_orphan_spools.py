"""Orphan spools: each event is shipped once."""

import asyncio
from pathlib import Path

from sidecar.metering.verify import verify
from sidecar.serve.orphan_spools import OrphanSpools
from tests.support.events import ListSink, a_spool, fill, ids, until


def orphan_spools(spools: list[Path], sink: ListSink) -> OrphanSpools:
    return OrphanSpools(spools, lambda: [sink], max_bytes=1 << 30, retry_s=0.001)


async def test_every_spool_is_shipped_and_stays_verifiable(tmp_path: Path) -> None:
    spools = [tmp_path / f"worker-{number}" for number in range(3)]
    for number, spool in enumerate(spools):
        await fill(spool, 5, first=10 * number)
    sink = ListSink()
    orphans = orphan_spools(spools, sink)
    await orphans.run()
    expected = [f"event-{10 * number + at}" for number in range(3) for at in range(5)]
    assert ids(sink.lines) == expected
    assert (orphans.waiting, orphans.backlog) == ([], 0)
    assert all(verify(spool).ok for spool in spools)
    again = ListSink()
    await orphan_spools(spools, again).run()  # the next start
    assert again.lines == []


async def test_a_sink_that_is_down_gets_the_events_later(tmp_path: Path) -> None:
    await fill(tmp_path / "worker-1", 3)
    sink = ListSink()
    sink.down = True
    orphans = orphan_spools([tmp_path / "worker-1"], sink)
    task = asyncio.create_task(orphans.run())
    await until(lambda: sink.attempts > 1)
    assert orphans.backlog == 3
    sink.down = False
    await task
    assert len(sink.lines) == 3


async def test_a_spool_in_use_is_retried_after_the_others(tmp_path: Path) -> None:
    await fill(tmp_path / "worker-2", 3)
    async with a_spool(tmp_path / "worker-1"):
        sink = ListSink()
        orphans = orphan_spools([tmp_path / "worker-1", tmp_path / "worker-2"], sink)
        task = asyncio.create_task(orphans.run())
        await until(lambda: orphans.waiting == [tmp_path / "worker-1"])
        assert len(sink.lines) == 3
    await task
    assert orphans.waiting == []


async def test_a_cancelled_shipment_continues_at_the_next_start(tmp_path: Path) -> None:
    await fill(tmp_path / "worker-1", 3)
    sink = ListSink()
    sink.down = True
    task = asyncio.create_task(orphan_spools([tmp_path / "worker-1"], sink).run())
    await until(lambda: sink.attempts)
    task.cancel()
    await asyncio.wait([task])
    assert sink.closed
    healthy = ListSink()
    await orphan_spools([tmp_path / "worker-1"], healthy).run()
    assert len(healthy.lines) == 3
