"""What all three sinks have in common, and what is specific to each."""

import asyncio
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import redis

from sidecar.core.sink_spec import parse_sink
from sidecar.errors import SinkDown, SinkRefused
from sidecar.files import Files
from sidecar.metering.sinks import make_sink
from sidecar.metering.sinks.file import FileSink
from sidecar.metering.sinks.output_lock import OutputLock
from sidecar.metering.sinks.redis import RedisSink
from sidecar.metering.sinks.stdout import StdoutSink
from sidecar.ports import Sink
from tests.support.events import an_event, ids, until
from tests.support.servers import free_port, start_valkey

STREAM = "test:{events}"


def lines(first: int, last: int) -> list[bytes]:
    return [orjson.dumps(an_event(number)) for number in range(first, last + 1)]


@dataclass
class Case:
    sink: Sink
    arrived: Callable[[], list[bytes]]


@pytest.fixture(params=["stdout", "file", "redis"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    path = tmp_path / "events.jsonl"
    if request.param == "redis":
        url = request.getfixturevalue("valkey_url")
        client = redis.Redis.from_url(url)
        yield Case(
            RedisSink(url, STREAM),
            lambda: [fields[b"event"] for _, fields in client.xrange(STREAM)],
        )
        client.close()
    elif request.param == "file":
        yield Case(FileSink(path), lambda: path.read_bytes().splitlines())
    else:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        yield Case(StdoutSink(fd), lambda: path.read_bytes().splitlines())
        os.close(fd)


async def test_lines_arrive_unchanged_in_order_and_are_there_on_return(case: Case) -> None:
    await case.sink.send(lines(1, 3))
    assert case.arrived() == lines(1, 3)
    await case.sink.send(lines(4, 600))
    assert case.arrived() == lines(1, 600)
    await case.sink.close()


async def test_close_can_be_called_twice_and_without_a_send(case: Case) -> None:
    assert case.sink.name in ("stdout", "file", "redis")
    await case.sink.close()
    await case.sink.close()


async def test_a_slow_reader_of_stdout_does_not_block_the_loop_or_cut_a_line() -> None:
    read, write = os.pipe()
    sink = StdoutSink(write, timeout_s=0.2)
    many = lines(1, 1000)
    with pytest.raises(SinkDown, match="stopped reading"):
        await sink.send(many)
    got = bytearray()

    def drain() -> None:
        while piece := os.read(read, 65536):
            got.extend(piece)

    reader = asyncio.create_task(asyncio.to_thread(drain))
    await sink.send(many)
    os.close(write)
    await reader
    os.close(read)
    arrived = ids(got.splitlines())
    assert len(arrived) > 1000
    assert arrived[-1000:] == ids(many)
    await sink.close()


async def test_stdout_without_a_reader_is_a_sink_that_is_down() -> None:
    read, write = os.pipe()
    os.close(read)
    sink = StdoutSink(write)
    with pytest.raises(SinkDown, match="Broken pipe"):
        await sink.send(lines(1, 1))
    os.close(write)
    await sink.close()


async def test_a_renamed_or_removed_file_is_created_again(tmp_path: Path) -> None:
    path, rotated = tmp_path / "events.jsonl", tmp_path / "events.jsonl.1"
    sink = FileSink(path)
    await sink.send(lines(1, 2))
    path.rename(rotated)
    await sink.send(lines(3, 4))
    path.unlink()
    await sink.send(lines(5, 5))
    await sink.close()
    assert rotated.read_bytes().splitlines() == lines(1, 2)
    assert path.read_bytes().splitlines() == lines(5, 5)


async def test_a_line_that_a_crash_cut_is_ended_before_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"id":"ev')
    sink = FileSink(path)
    await sink.send(lines(1, 1))
    await sink.close()
    assert path.read_bytes().splitlines()[1:] == lines(1, 1)


async def test_a_file_that_cannot_be_written_is_down_until_it_can(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "missing" / "events.jsonl")
    with pytest.raises(SinkDown, match="cannot be written: No such file"):
        await sink.send(lines(1, 1))
    (tmp_path / "missing").mkdir()
    await sink.send(lines(1, 1))
    await sink.close()
    assert (tmp_path / "missing" / "events.jsonl").read_bytes().splitlines() == lines(1, 1)


class HalfWritten:
    """A disk that takes half of the next write, and has no space for the rest."""

    def __init__(self) -> None:
        self.full = False
        self.files = Files(write=self._write)

    def _write(self, fd: int, data: bytes | memoryview) -> int:
        if not self.full:
            return os.write(fd, data)
        if len(data) < 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data[: len(data) // 2])


@pytest.mark.parametrize("shared", [False, True])
async def test_a_batch_of_which_a_full_disk_took_half_is_in_the_file_once(
    tmp_path: Path, shared: bool
) -> None:
    """Also for another writer that waits for the same lock."""
    path, disk = tmp_path / "events.jsonl", HalfWritten()
    lock = OutputLock(tmp_path / "sink.lock") if shared else None
    sink = FileSink(path, files=disk.files, lock=lock)
    await sink.send(lines(1, 1))
    disk.full = True
    with pytest.raises(SinkDown, match="No space left on device"):
        await sink.send(lines(2, 4))
    assert path.read_bytes().splitlines() == lines(1, 1)
    disk.full = False
    other = FileSink(path, lock=OutputLock(tmp_path / "sink.lock", timeout_s=0.1))
    await other.send(lines(5, 5))
    await sink.send(lines(2, 4))
    await sink.close()
    await other.close()
    assert path.read_bytes().splitlines() == [*lines(1, 1), *lines(5, 5), *lines(2, 4)]


async def test_the_stream_has_ids_is_trimmed_and_expires(valkey_url: str) -> None:
    sink = RedisSink(valkey_url, STREAM, maxlen=100, ttl_s=1000)
    await sink.send(lines(1, 1000))
    with redis.Redis.from_url(valkey_url) as client:
        assert 100 <= client.xlen(STREAM) < 300  # "~" trims whole nodes
        assert 900 < client.ttl(STREAM) <= 1000
        (_, last), *_ = client.xrevrange(STREAM, count=1)
        assert last == {b"id": b"event-1000", b"event": lines(1000, 1000)[0]}
    await sink.close()


async def test_a_sink_is_down_while_redis_is_unavailable_and_delivers_afterwards(
    tmp_path: Path,
) -> None:
    port = free_port()
    sink = RedisSink(f"redis://user:hidden-word@127.0.0.1:{port}/0", STREAM)
    with pytest.raises(SinkDown) as caught:
        await sink.send(lines(1, 1))
    assert "hidden-word" not in str(caught.value) and f"127.0.0.1:{port}" in str(caught.value)
    await sink.close()
    sink = RedisSink(f"redis://127.0.0.1:{port}/0", STREAM)
    for number in (1, 2):
        process, _ = start_valkey(tmp_path, port=port)
        try:
            await sink.send(lines(number, number))
            with redis.Redis(port=port) as client:
                assert client.xlen(STREAM) == 1  # the restarted server is empty
        finally:
            stop(process)
        with pytest.raises(SinkDown):
            await sink.send(lines(9, 9))
    await sink.close()


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(10)


async def test_a_full_redis_is_a_sink_that_is_down_and_refuses_no_event(valkey_url: str) -> None:
    sink = RedisSink(valkey_url, STREAM)
    with redis.Redis.from_url(valkey_url) as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(SinkDown, match="maxmemory"):
                await sink.send(lines(1, 2))
        finally:
            client.config_set("maxmemory", "0")
        client.set(STREAM, "not a stream")
        with pytest.raises(SinkDown, match="wrong kind"):
            await sink.send(lines(1, 2))
    await sink.close()


async def test_a_failed_delivery_leaves_no_connection_open(valkey_url: str) -> None:
    """The next one connects again: to the nodes that a cluster or the sentinels name then."""
    sink = RedisSink(valkey_url, STREAM)
    with redis.Redis.from_url(valkey_url) as client:
        client.set(STREAM, "not a stream")
        before = len(client.client_list())
        with pytest.raises(SinkDown):
            await sink.send(lines(1, 2))
        await until(lambda: len(client.client_list()) == before)
        client.delete(STREAM)
        await sink.send(lines(1, 2))
        assert client.xlen(STREAM) == 2
    await sink.close()


@pytest.mark.parametrize(
    "poison", [b'{"id":"x","data":"' + b"x" * 2000 + b'"}', b"noise", b"{}", b"[1]"]
)
async def test_an_event_that_redis_never_accepts_is_refused_before_anything_is_sent(
    valkey_url: str, poison: bytes
) -> None:
    sink = RedisSink(valkey_url, STREAM, max_event_bytes=1000)
    with pytest.raises(SinkRefused):
        await sink.send([*lines(1, 1), poison])
    with redis.Redis.from_url(valkey_url) as client:
        assert not client.exists(STREAM)
    await sink.close()


@pytest.mark.parametrize(
    "spec, name",
    [("stdout", "stdout"), ("file:/tmp/events.jsonl", "file"), ("redis", "redis")],
)
async def test_a_sink_is_made_from_its_text(spec: str, name: str) -> None:
    sink = make_sink(parse_sink(spec), redis_url="redis://127.0.0.1:6379/0", stream_key=STREAM)
    assert sink.name == name
    await sink.close()


@pytest.mark.parametrize(
    "spec",
    ["", "kafka", "file", "file:", "stdout:1", "redis:", "redis:http://:hidden-word@h", "redis:redis://h:x",
     "redis:redis://h/a", "redis:rediss://user:hidden-word@cache.example:6380/2"],
)  # fmt: skip
def test_any_other_text_is_an_error_with_the_forms_to_write(spec: str) -> None:
    with pytest.raises(ValueError, match="not a sink; write stdout, file:/path or redis") as caught:
        parse_sink(spec)
    assert "hidden-word" not in str(caught.value)
