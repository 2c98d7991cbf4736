"""Recovery of damaged spools: files truncated at every byte, flipped bits, killed processes."""

import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from sidecar.files import Files
from sidecar.metering.segments import HEAD_NAME, list_segments
from sidecar.metering.verify import verify
from tests.support.events import a_spool, an_event, fill, ids, lines_in, names_in, seqs

KILLED = """
import asyncio, pathlib, sys
from sidecar.metering.spool import Spool

async def main():
    spool = Spool(pathlib.Path(sys.argv[1]), segment_bytes=200_000, max_waiting_bytes=400_000)
    spool.open()
    number = 0
    spool.on_commit.append(lambda: print(spool.committed_seq, flush=True))
    while True:
        for _ in range(100 if spool.accepting else 0):
            number += 1
            spool.append({"specversion": "1.0", "id": f"event-{number}", "data": {"n": number}})
        await asyncio.sleep(0)

asyncio.run(main())
"""


async def test_I4_a_line_torn_at_any_byte_is_set_aside_and_its_number_is_reused(
    tmp_path: Path,
) -> None:
    whole = tmp_path / "whole"
    await fill(whole, 3)
    (whole / HEAD_NAME).unlink()  # after a crash, the head dates from the last rotation
    name = list_segments(whole)[0].path.name
    content = (whole / name).read_bytes()
    start = content[:-1].rindex(b"\n") + 1
    for size in range(start, len(content)):
        torn = tmp_path / "torn"
        shutil.copytree(whole, torn)
        (torn / name).write_bytes(content[:size])
        await fill(torn, 1, first=90, files=Files(sync=lambda _fd: None))
        assert ids(lines_in(torn)) == ["event-1", "event-2", "event-90"]
        assert verify(torn).ok
        aside = list(torn.glob("*.bad"))
        assert [path.read_bytes() for path in aside] == (
            [content[start:size]] if size > start else []
        )
        shutil.rmtree(torn)


async def test_I4_a_killed_process_loses_no_committed_event(tmp_path: Path) -> None:
    committed = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout
            try:
                committed = [int(process.stdout.readline()) for _ in range(6)][-1]
            finally:
                process.kill()
            # Its remaining output counts too, except a last word that may be cut.
            committed = max([committed, *map(int, process.stdout.read().split()[:-1])])
        async with a_spool(tmp_path) as spool:
            assert spool.committed_seq >= committed
        assert seqs(lines_in(tmp_path)) == list(range(1, spool.next_seq))
        assert verify(tmp_path).ok
    assert committed > 500


async def test_a_flipped_bit_in_the_middle_is_reported_and_costs_no_other_event(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, 6)
    path = list_segments(tmp_path)[0].path
    content = bytearray(path.read_bytes())
    content[content.index(b"acme", content.index(b'"seq":3'))] ^= 1
    path.write_bytes(content)
    await fill(tmp_path, 2, 7)
    assert seqs(lines_in(tmp_path)) == list(range(1, 9))
    assert len(list_segments(tmp_path)) == 2  # the damaged segment gets no more events
    report = verify(tmp_path)
    assert not report.ok
    assert [str(one) for one in report.breaks] == [
        f"{path.name}:4: the previous line was changed: its hash does not match"
    ]
    assert report.missing == 0


@pytest.mark.parametrize(
    "old, new", [(b'"seq":6', b'"seq":7'), (b'"prev":"', b'"prev":"0'), (b"{", b"[")]
)
async def test_a_last_line_that_does_not_fit_is_set_aside(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    await fill(tmp_path, 6)
    (tmp_path / HEAD_NAME).unlink()
    path = list_segments(tmp_path)[0].path
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + last.replace(old, new, 1))
    await fill(tmp_path, 1, 60)
    assert ids(lines_in(tmp_path))[4:] == ["event-5", "event-60"]
    assert seqs(lines_in(tmp_path)) == [1, 2, 3, 4, 5, 6]
    assert verify(tmp_path).ok and verify(tmp_path).set_aside == 1


async def test_I4_events_cut_from_the_end_of_a_closed_spool_leave_a_proven_gap(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, 6)
    path = list_segments(tmp_path)[0].path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert verify(tmp_path).missing == 2
    await fill(tmp_path, 1, 7)
    assert seqs(lines_in(tmp_path)) == [1, 2, 3, 4, 7, 8]
    notice = orjson.loads(lines_in(tmp_path)[4])
    assert notice["type"] == "sidecar.spool.missing.v1"
    assert notice["data"] == {"first": 5, "last": 6, "cause": "absent"}
    report = verify(tmp_path)
    assert [(gap.first, gap.last) for gap in report.gaps] == [(5, 6)]


async def test_a_segment_of_noise_is_set_aside_and_the_previous_one_continues(
    tmp_path: Path,
) -> None:
    await fill(tmp_path, 2)
    (tmp_path / f"{3:020d}.jsonl").write_bytes(b"\0" * 5000)
    (tmp_path / "head.json.tmp").write_bytes(b"half")
    await fill(tmp_path, 1, 3)
    assert seqs(lines_in(tmp_path)) == [1, 2, 3]
    assert "head.json.tmp" not in names_in(tmp_path)
    assert verify(tmp_path).ok


async def test_a_damaged_head_is_restored_from_the_segments(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    (tmp_path / HEAD_NAME).write_bytes(b"{")
    async with a_spool(tmp_path) as spool:
        spool.append(an_event(3))
    assert seqs(lines_in(tmp_path)) == [1, 2, 3]
    assert verify(tmp_path).ok


def asides_in(directory: Path) -> list[Path]:
    return list(directory.glob("*.bad"))


async def test_each_torn_tail_of_a_segment_has_a_file_of_its_own(tmp_path: Path) -> None:
    await fill(tmp_path, 2)
    tails = [b"first", b"second", b"third", b"fourth"]
    for number, tail in enumerate(tails, 3):
        with list_segments(tmp_path)[0].path.open("ab") as file:
            file.write(tail)
        await fill(tmp_path, 1, first=number)
    assert sorted(map(Path.read_bytes, asides_in(tmp_path))) == sorted(tails)
    assert len(list_segments(tmp_path)) == 1
    assert verify(tmp_path).set_aside == len(tails)
