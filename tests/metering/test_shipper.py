"""The shipper: delivery to each sink at its own pace, in order, at least once."""

import asyncio
import errno
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.errors import SettingsError
from sidecar.files import Files
from sidecar.metering.cursor import cursor_path
from sidecar.metering.segments import list_segments
from sidecar.metering.shipper import Shipper
from sidecar.metering.sinks.file import FileSink
from sidecar.metering.verify import verify
from tests.support.events import ListSink, a_spool, an_event, fill, ids, until
from tests.support.faults import FaultyDisk


def expected(last: int, first: int = 1) -> list[str]:
    return [f"event-{number}" for number in range(first, last + 1)]


async def ship(directory: Path, *sinks: ListSink, **options: Any) -> None:
    async with a_spool(directory) as spool:
        shipper = Shipper(spool, sinks, **options)
        shipper.start()
        await shipper.drain(10)
        await shipper.close()


async def test_events_arrive_as_they_are_committed_and_only_once(tmp_path: Path) -> None:
    sink = ListSink()
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [sink], batch=7)
        shipper.start()
        for number in range(1, 51):
            spool.append(an_event(number))
        await until(lambda: len(sink.lines) == 50)
        await until(lambda: shipper.lag == {"list": 0} and spool.backlog == 0)
        spool.append(an_event(51))
        assert spool.backlog == 1
        assert await shipper.drain(10)
        await shipper.close()
    assert ids(sink.lines) == expected(51)
    assert sink.closed


async def test_a_restart_continues_after_the_last_delivery(tmp_path: Path) -> None:
    await fill(tmp_path, 5)
    first, second = ListSink(), ListSink()
    await ship(tmp_path, first, batch=2)
    await fill(tmp_path, 5, 6)
    await ship(tmp_path, second, batch=2)
    assert ids(first.lines + second.lines) == expected(10)


async def test_a_sink_that_is_down_delays_no_other_sink_and_gets_everything_later(
    tmp_path: Path,
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    bad, good = ListSink("bad"), ListSink("good")
    bad.down = True
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [bad, good], sleep=sleep, random=lambda: 1.0)
        shipper.start()
        for number in range(1, 11):
            spool.append(an_event(number))
        await until(lambda: len(good.lines) == 10 and len(pauses) > 8)
        assert shipper.up == {"bad": False, "good": True}
        assert shipper.lag["bad"] == spool.backlog == 10
        assert pauses[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        bad.down = False
        assert await shipper.drain(10)
        assert shipper.up["bad"]
        await shipper.close()
    assert ids(bad.lines) == ids(good.lines) == expected(10)


async def test_after_a_delivery_the_pauses_begin_anew(tmp_path: Path) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    sink = ListSink()
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [sink], sleep=sleep, random=lambda: 1.0)
        shipper.start()
        for outage in (1, 2):
            sink.down = True
            spool.append(an_event(outage))
            await until(lambda: len(pauses) > 3)
            assert pauses[:3] == [0.1, 0.2, 0.4]
            sink.down = False
            await until(lambda: len(sink.lines) == outage)  # noqa: B023 - runs in this round
            pauses.clear()
        await shipper.close()


async def test_drain_stops_at_its_timeout_and_keeps_the_events(tmp_path: Path) -> None:
    sink = ListSink()
    sink.down = True
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [sink])
        shipper.start()
        spool.append(an_event(1))
        assert not await shipper.drain(0.01)
        await shipper.close()
    later = ListSink()
    await ship(tmp_path, later)
    assert ids(later.lines) == ["event-1"]


async def test_15_a_new_sink_gets_events_that_wait_for_a_full_disk(tmp_path: Path) -> None:
    """No segment and no cursor exist yet, as after a kill soon after the first start."""
    disk = FaultyDisk([errno.ENOSPC] * 3, ["write"])
    sink = ListSink()
    async with a_spool(tmp_path, files=disk.files) as spool:
        disk.armed = True
        spool.append(an_event(1))
        await until(lambda: disk.failed == 1)
        shipper = Shipper(spool, [sink])
        shipper.start()
        assert shipper.lag == {"list": 1}
        await until(lambda: sink.lines)
        await shipper.close()
    assert ids(sink.lines) == ["event-1"]


async def test_refused_events_are_set_aside_and_the_others_arrive_once(tmp_path: Path) -> None:
    await fill(tmp_path, 40)
    sink = ListSink()
    sink.poison = {"event-1", "event-18", "event-19", "event-40"}
    await ship(tmp_path, sink)
    assert ids(sink.lines) == [one for one in expected(40) if one not in sink.poison]
    dead = (tmp_path / "list.dead.jsonl").read_bytes().splitlines()
    assert ids(dead) == ["event-1", "event-18", "event-19", "event-40"]
    assert verify(tmp_path).dead_letters == {"list": 4}


async def test_after_a_refused_event_batches_are_large_again(tmp_path: Path) -> None:
    await fill(tmp_path, 100)
    sink = ListSink()
    sink.poison = {"event-1"}
    await ship(tmp_path, sink)
    assert sink.batches == [99]


async def test_a_full_dead_letter_file_stops_the_sink_rather_than_lose_events(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, 4)
    sink = ListSink()
    sink.poison = {"event-2", "event-3"}
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [sink], dead_bytes=500)
        shipper.start()
        assert not await shipper.drain(10)
        assert shipper.up == {"list": False} and shipper.lag == {"list": 2}
        await shipper.close()
    (tmp_path / "list.dead.jsonl").rename(tmp_path / "examined")
    await ship(tmp_path, sink, dead_bytes=500)
    assert ids(sink.lines) == ["event-1", "event-4"]


async def test_segments_are_deleted_after_the_slowest_sink_has_stored_them(tmp_path: Path) -> None:
    await fill(tmp_path, 20, segment_bytes=1000)
    before = list_segments(tmp_path)
    fast, slow = ListSink("fast"), ListSink("slow")
    slow.down = True
    async with a_spool(tmp_path, segment_bytes=1000) as spool:
        shipper = Shipper(spool, [fast, slow], random=lambda: 0.0)
        shipper.start()
        await until(lambda: len(fast.lines) == 20)
        assert len(list_segments(tmp_path)) == len(before) > 4
        slow.down = False
        assert await shipper.drain(10)
        await until(lambda: len(list_segments(tmp_path)) == 1)
        assert spool.bytes_on_disk == before[-1].size
        await shipper.close()
    await fill(tmp_path, 5, 21, segment_bytes=1000)
    await ship(tmp_path, fast, slow)
    assert ids(fast.lines) == ids(slow.lines) == expected(25)
    assert verify(tmp_path).ok


async def test_without_sinks_nothing_is_deleted_and_a_sink_added_later_starts_at_the_oldest(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, 10, segment_bytes=1000)
    await ship(tmp_path)
    assert len(list_segments(tmp_path)) > 2
    sink = ListSink()
    await ship(tmp_path, sink)
    assert ids(sink.lines) == expected(10)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 99},
        {"seq": 4},
        {"offset": 7},
        {"offset": 10**6},
        {"spool": "another"},
        {"seq": "x"},
        None,
    ],
)
async def test_a_cursor_that_does_not_fit_starts_at_the_oldest_event(
    tmp_path: Path, change: dict[str, Any] | None
) -> None:
    await fill(tmp_path, 3)
    await ship(tmp_path, ListSink())
    path = cursor_path(tmp_path, "list")
    saved = orjson.loads(path.read_bytes())
    assert saved["seq"] == 3
    path.write_bytes(b"no cursor" if change is None else orjson.dumps(saved | change))
    again = ListSink()
    await ship(tmp_path, again)
    assert ids(again.lines) == expected(3)


async def test_a_cursor_older_than_the_last_batch_repeats_that_batch(tmp_path: Path) -> None:
    await fill(tmp_path, 3)
    await ship(tmp_path, ListSink())
    old = tmp_path / "old"
    shutil.copy(cursor_path(tmp_path, "list"), old)
    await fill(tmp_path, 2, 4)
    await ship(tmp_path, ListSink())
    shutil.copy(old, cursor_path(tmp_path, "list"))
    again = ListSink()
    await ship(tmp_path, again)
    assert ids(again.lines) == expected(5, 4)


def test_two_sinks_of_one_name_are_refused(tmp_path: Path) -> None:
    from sidecar.metering.spool import Spool

    with pytest.raises(SettingsError, match="list is listed twice"):
        Shipper(Spool(tmp_path), [ListSink(), ListSink()])


async def test_a_removed_segment_does_not_stop_later_ones(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, 9, segment_bytes=1000)
    sink = ListSink()
    async with a_spool(tmp_path) as spool:
        shipper = Shipper(spool, [sink])
        removed, after = spool.segments[1], spool.segments[2]
        removed.path.unlink()
        shipper.start()
        await shipper.drain(10)
        await shipper.close()
    shipped = [one for one in ids(sink.lines) if one.startswith("event-")]
    assert shipped == expected(removed.first - 1) + expected(9, after.first)


async def test_a_disk_too_full_for_cursors_does_not_stop_shipping(tmp_path: Path) -> None:
    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    await fill(tmp_path, 9)
    sink = ListSink()
    await ship(tmp_path, sink, batch=2, files=Files(write=no_room))
    assert ids(sink.lines) == expected(9)
    assert not cursor_path(tmp_path, "list").exists()


async def test_a_sink_that_cannot_store_is_reported_before_the_first_event(
    tmp_path: Path,
) -> None:
    file = tmp_path / "missing" / "usage.jsonl"
    async with a_spool(tmp_path / "spool") as spool:
        shipper = Shipper(spool, [FileSink(file)], random=lambda: 0.0)
        shipper.start()
        await until(lambda: not shipper.up["file"])
        [fault] = shipper.faults
        assert fault.startswith(f"sink file: file sink {file}: cannot be opened: No such file")
        assert await shipper.drain(60), "nothing is left, so an end does not wait for the sink"
        file.parent.mkdir()
        await until(lambda: shipper.up["file"])
        assert (shipper.faults, file.exists()) == ([], True)
        await shipper.close()


async def test_a_closed_shipper_is_not_notified_of_commits(tmp_path: Path) -> None:
    async with a_spool(tmp_path) as spool:
        before = list(spool.on_commit)
        shipper = Shipper(spool, [ListSink()])
        shipper.start()
        assert spool.on_commit != before
        await shipper.close()
        assert spool.on_commit == before
