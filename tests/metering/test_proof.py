"""Lines are proven before they leave the spool: damaged ones are set aside, the others shipped."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from sidecar.metering.segments import list_segments
from sidecar.metering.shipper import Shipper
from sidecar.metering.verify import verify
from tests.support.events import ListSink, a_spool, an_event, fill, ids, names_in

Change = Callable[[list[bytes]], list[bytes]]


def usage_to_zero(lines: list[bytes]) -> list[bytes]:
    lines[3] = lines[3].replace(b'"usage":{"requests":1}', b'"usage":{"requests":0}')
    return lines


def noise(lines: list[bytes]) -> list[bytes]:
    lines[3] = b"#" + lines[3][1:]
    return lines


def other_spool(lines: list[bytes]) -> list[bytes]:
    lines[3] = lines[3].replace(b'{"spool":"', b'{"spool":"f', 1)
    return lines


def lower_number(lines: list[bytes]) -> list[bytes]:
    lines[3] = lines[3].replace(b'"seq":4', b'"seq":2', 1)
    return lines


async def ship(directory: Path, **options: int) -> tuple[ListSink, int, int]:
    """Ship everything to two sinks, which get the same events.

    Returns one of them, and the numbers of damaged and of missing events.
    """
    sink, other = ListSink(), ListSink("other")
    async with a_spool(directory) as spool:
        shipper = Shipper(spool, [sink, other], **options)  # type: ignore[arg-type]
        shipper.start()
        assert await shipper.drain(10)
        spool.append(an_event(900))
        assert await shipper.drain(10)
        await shipper.close()
        assert sorted(other.lines) == sorted(sink.lines)
        return sink, spool.damaged, spool.missing


def requests(sink: ListSink) -> list[str]:
    return [one for one in ids(sink.lines) if one.startswith("event-")]


@pytest.mark.parametrize("batch", [1, 2, 3, 500])
@pytest.mark.parametrize("change", [usage_to_zero, noise, other_spool, lower_number])
async def test_a_damaged_line_is_not_shipped_and_all_others_are(
    tmp_path: Path, change: Change, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill(tmp_path, 8)
    [segment] = list_segments(tmp_path)
    lines = change(segment.path.read_bytes().split(b"\n"))
    segment.path.write_bytes(b"\n".join(lines))
    sink, damaged, missing = await ship(tmp_path, batch=batch)
    assert requests(sink) == [f"event-{n}" for n in (1, 2, 3, 5, 6, 7, 8, 900)]
    assert (damaged, missing) == (1, 1)
    assert (tmp_path / "damaged-4-4.bad").read_bytes() == lines[3] + b"\n"
    assert "events_damaged" in capsys.readouterr().out
    [named] = [
        event["data"]
        for event in map(orjson.loads, sink.lines)
        if event["type"] == "sidecar.spool.missing.v1"
    ]
    assert named == {"first": 4, "last": 4, "cause": "damaged"}


async def test_the_last_line_is_proven_by_the_hash_that_the_spool_recorded(tmp_path: Path) -> None:
    await fill(tmp_path, 3)
    [segment] = list_segments(tmp_path)
    content = segment.path.read_bytes()
    at = content.rindex(b'"requests":1')
    segment.path.write_bytes(content[:at] + b'"requests":0' + content[at + 12 :])
    sink, damaged, _ = await ship(tmp_path)
    assert requests(sink) == ["event-1", "event-2", "event-900"]
    assert damaged == 1


@pytest.mark.parametrize("which", [0, 1])
async def test_the_last_line_of_a_segment_is_proven_by_the_next_segment(
    tmp_path: Path, which: int
) -> None:
    await fill(tmp_path, 6, segment_bytes=700)
    segment = list_segments(tmp_path)[which]
    content = segment.path.read_bytes()
    segment.path.write_bytes(content.replace(b'"requests":1', b'"requests":7'))
    sink, damaged, _ = await ship(tmp_path)
    assert len(requests(sink)) == 7 - damaged
    assert damaged == content.count(b"\n") > 0
    assert not any(b'"requests":7' in line for line in sink.lines)


@pytest.mark.parametrize("which", [0, 2])
async def test_a_removed_segment_is_named_once(
    tmp_path: Path, which: int, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill(tmp_path, 9, segment_bytes=700)
    segments = list_segments(tmp_path)
    gone = list(range(segments[which].first, segments[which + 1].first))
    segments[which].path.unlink()
    sink, damaged, missing = await ship(tmp_path)
    assert (damaged, missing) == (0, len(gone))
    assert requests(sink) == [f"event-{n}" for n in range(1, 10) if n not in gone] + ["event-900"]
    assert capsys.readouterr().out.count("events_missing") == 1
    named = [
        event["data"]
        for event in map(orjson.loads, sink.lines)
        if event["type"] == "sidecar.spool.missing.v1"
    ]
    assert named == [{"first": gone[0], "last": gone[-1], "cause": "absent"}]


async def test_a_sound_spool_sets_nothing_aside(tmp_path: Path) -> None:
    await fill(tmp_path, 40, segment_bytes=1500)
    sink, damaged, missing = await ship(tmp_path, batch=7)
    assert (damaged, missing, len(requests(sink))) == (0, 0, 41)
    assert not any(name.endswith(".bad") for name in names_in(tmp_path))
    assert verify(tmp_path).ok
