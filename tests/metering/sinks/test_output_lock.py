"""Sinks that share one output write whole lines, even if a writer dies or stalls."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from sidecar.errors import SinkDown
from sidecar.files import Files
from sidecar.metering.sinks.file import FileSink
from sidecar.metering.sinks.output_lock import OutputLock
from sidecar.metering.sinks.stdout import StdoutSink
from tests.support.events import an_event, ids


def lines(first: int, last: int, size: int = 0) -> list[bytes]:
    return [orjson.dumps(an_event(n, padding="x" * size)) for n in range(first, last + 1)]


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    return tmp_path / "sink.lock"


def die_in_the_middle(lock_path: Path, output: Path) -> None:
    """Run a process that acquires the lock, writes half a line, and is killed."""
    code = (
        "import os, signal, sys, pathlib\n"
        "from sidecar.metering.sinks.output_lock import OutputLock\n"
        "OutputLock(pathlib.Path(sys.argv[1])).acquire()\n"
        "fd = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        'os.write(fd, b\'{"id":"cut\'); os.kill(os.getpid(), signal.SIGKILL)'
    )
    done = subprocess.run([sys.executable, "-c", code, str(lock_path), str(output)], check=False)
    assert done.returncode == -9


async def test_batches_of_several_writers_to_one_file_do_not_mix(
    lock_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    sinks = [FileSink(path, lock=OutputLock(lock_path)) for _ in range(3)]
    batches = [(sink, 100 * number) for number in range(8) for sink in sinks]
    await asyncio.gather(*(sink.send(lines(at + 1, at + 50, 500)) for sink, at in batches))
    for sink in sinks:
        await sink.close()
    written = ids(path.read_bytes().splitlines())
    runs = [written[at : at + 50] for at in range(0, len(written), 50)]
    assert len(runs) == 24
    for run in runs:
        first = int(run[0].removeprefix("event-"))
        assert run == [f"event-{number}" for number in range(first, first + 50)]


async def test_an_unfinished_line_of_a_dead_writer_is_ended_in_a_file(
    lock_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink(path, lock=OutputLock(lock_path))
    await sink.send(lines(1, 1))
    await asyncio.to_thread(die_in_the_middle, lock_path, path)
    await sink.send(lines(2, 2))
    await sink.close()
    assert path.read_bytes().splitlines() == [*lines(1, 1), b'{"id":"cut', *lines(2, 2)]


async def test_an_unfinished_line_of_a_dead_writer_is_ended_on_standard_output(
    lock_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    await asyncio.to_thread(die_in_the_middle, lock_path, path)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    sink = StdoutSink(fd, lock=OutputLock(lock_path))
    await sink.send(lines(1, 2))
    await sink.send(lines(3, 3))
    await sink.close()
    os.close(fd)
    assert path.read_bytes().splitlines() == [b'{"id":"cut', *lines(1, 3)]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # closed by the test


@pytest.mark.parametrize("shared", [True, False])
async def test_a_reader_that_stalls_repeatedly_gets_whole_lines(
    lock_path: Path, pipe: tuple[int, int], shared: bool
) -> None:
    reader, writer = pipe
    first = StdoutSink(writer, timeout_s=0.2, lock=OutputLock(lock_path) if shared else None)
    for _ in range(3):  # the pipe fills inside a line, and then accepts no byte
        with pytest.raises(SinkDown):
            await first.send(lines(1, 40, 5000))
    second = StdoutSink(writer, timeout_s=0.2, lock=OutputLock(lock_path, timeout_s=0.01))
    if shared:
        with pytest.raises(SinkDown, match="another writer does not release it"):
            await second.send(lines(100, 101))
    got = bytearray()

    def read() -> None:
        while piece := os.read(reader, 65_536):
            got.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    await first.send(lines(1, 40, 5000))
    await second.send(lines(100, 101))
    os.close(writer)
    await asyncio.to_thread(thread.join)
    await first.close()
    await second.close()
    seen = ids(bytes(got).splitlines())  # each line is whole JSON
    assert seen[-42:] == [f"event-{number}" for number in (*range(1, 41), 100, 101)]


def test_the_lock_has_one_owner_and_can_be_acquired_again(lock_path: Path) -> None:
    one, other = OutputLock(lock_path), OutputLock(lock_path, timeout_s=0.01)
    assert one.acquire() is False
    assert one.acquire() is False  # already owned
    with pytest.raises(SinkDown):
        other.acquire()
    one.release()
    one.release()
    assert other.acquire() is False
    other.close()
    assert one.acquire() is True  # the other one closed it without a release
    one.release()
    one.close()


def test_a_lock_file_that_cannot_be_opened_is_a_sink_that_is_down(tmp_path: Path) -> None:
    with pytest.raises(SinkDown, match="cannot be locked: No such file"):
        OutputLock(tmp_path / "absent" / "x.lock").acquire()


def test_a_lock_that_cannot_be_marked_is_not_kept(lock_path: Path) -> None:
    lock_path.touch()

    def read_only(path: Path, _flags: int, _mode: int) -> int:
        return os.open(path, os.O_RDONLY)

    one = OutputLock(lock_path, files=Files(open=read_only))
    for _ in range(2):
        with pytest.raises(SinkDown, match="cannot be locked"):
            one.acquire()
    other = OutputLock(lock_path, timeout_s=0.01)
    assert other.acquire() is False
    other.close()
