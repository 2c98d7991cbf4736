"""The contract of `ports.Sink`: every test runs on every sink."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import redis

from sidecar.errors import SinkDown
from sidecar.metering.sinks.file import FileSink
from sidecar.metering.sinks.redis import RedisSink
from sidecar.metering.sinks.stdout import StdoutSink
from sidecar.ports import Sink
from tests.support.events import ListSink, an_event, ids
from tests.support.servers import free_port, start_valkey

STREAM = "test:{events}"


@dataclass
class Case:
    """A sink, the lines that have arrived, and how its destination fails and recovers."""

    sink: Sink
    arrived: Callable[[], Sequence[bytes]]
    lose: Callable[[], object]
    restore: Callable[[], object]


@asynccontextmanager
async def to_stdout(directory: Path) -> AsyncIterator[Case]:
    """A descriptor of a file; after `lose`, of a pipe without a reader."""
    path = directory / "collected"
    to_path = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    fd = os.dup(to_path)

    def lose() -> None:
        read, write = os.pipe()
        os.dup2(write, fd)
        os.close(read)
        os.close(write)

    try:
        yield Case(
            StdoutSink(fd),
            lambda: path.read_bytes().splitlines(),
            lose,
            lambda: os.dup2(to_path, fd),
        )
    finally:
        os.close(fd)
        os.close(to_path)


@asynccontextmanager
async def to_file(directory: Path) -> AsyncIterator[Case]:
    """A file in a folder; `lose` renames the folder."""
    folder, renamed = directory / "logs", directory / "renamed"
    folder.mkdir()
    path = folder / "events.jsonl"
    path.touch()
    yield Case(
        FileSink(path),
        lambda: path.read_bytes().splitlines(),
        lambda: folder.rename(renamed),
        lambda: renamed.rename(folder),
    )


@asynccontextmanager
async def to_redis(directory: Path) -> AsyncIterator[Case]:
    """A stream in a Valkey that keeps its data on disk; `lose` kills the server."""
    port = free_port()
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        durable = ("--appendonly", "yes", "--appendfsync", "always")
        running.append(start_valkey(directory, *durable, port=port)[0])

    def kill() -> None:
        while running:
            process = running.pop()
            process.kill()
            process.wait()

    def arrived() -> list[bytes]:
        with redis.Redis(port=port) as client:
            return [fields[b"event"] for _, fields in client.xrange(STREAM)]

    start()
    try:
        yield Case(RedisSink(f"redis://127.0.0.1:{port}/0", STREAM), arrived, kill, start)
    finally:
        kill()


@asynccontextmanager
async def to_list(_: Path) -> AsyncIterator[Case]:
    """The sink in memory that the tests of the shipper use."""
    sink = ListSink()
    yield Case(
        sink,
        lambda: sink.lines,
        lambda: setattr(sink, "down", True),
        lambda: setattr(sink, "down", False),
    )


Adapter = Callable[[Path], AbstractAsyncContextManager[Case]]
ADAPTERS: dict[str, Adapter] = {
    "stdout": to_stdout, "file": to_file, "redis": to_redis, "list": to_list
}  # fmt: skip


@pytest.fixture(params=ADAPTERS)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Case]:
    async with ADAPTERS[request.param](tmp_path) as case:
        try:
            assert case.sink.name == request.param
            yield case
        finally:
            await case.sink.close()


def lines(first: int, last: int) -> list[bytes]:
    return [orjson.dumps(an_event(number)) for number in range(first, last + 1)]


async def test_lines_have_arrived_on_return_unchanged_and_in_order(case: Case) -> None:
    await case.sink.send(lines(1, 1))
    assert case.arrived() == lines(1, 1)
    await case.sink.send(lines(2, 700))
    assert case.arrived() == lines(1, 700)


async def test_text_in_any_language_arrives_byte_for_byte(case: Case) -> None:
    event = orjson.dumps(an_event(1, subject="Ærøskøbing 株式会社 \u2028\u0000 🦔 \\ \r\n"))
    await case.sink.send([event])
    assert b"\n" not in event and list(case.arrived()) == [event]


async def test_batches_sent_without_waiting_keep_their_order(case: Case) -> None:
    await asyncio.gather(*(case.sink.send(lines(n, n + 9)) for n in range(1, 200, 10)))
    # Each batch stays together; the order between concurrent batches is undefined.
    arrived = ids(case.arrived())
    batches = [arrived[at : at + 10] for at in range(0, 200, 10)]
    assert sorted(batches) == sorted(ids(lines(n, n + 9)) for n in range(1, 200, 10))


async def test_a_sink_that_cannot_deliver_raises_and_delivers_later(case: Case) -> None:
    await case.sink.send(lines(1, 5))
    case.lose()
    for _ in range(2):
        with pytest.raises(SinkDown) as caught:
            await case.sink.send(lines(6, 9))
        assert len(str(caught.value)) > 10  # a message for the operator
    case.restore()
    assert case.arrived() == lines(1, 5)  # durable: it survived the loss
    await case.sink.send(lines(6, 9))
    assert case.arrived() == lines(1, 9)


async def test_a_sink_without_a_destination_from_the_start_is_down(case: Case) -> None:
    case.lose()
    with pytest.raises(SinkDown):
        await case.sink.send(lines(1, 1))
    case.restore()
    await case.sink.send(lines(1, 1))
    assert case.arrived() == lines(1, 1)


async def test_close_is_idempotent_and_loses_nothing(case: Case) -> None:
    await case.sink.send(lines(1, 3))
    await case.sink.close()
    await case.sink.close()
    assert case.arrived() == lines(1, 3)


async def test_close_needs_no_send_and_no_destination(case: Case) -> None:
    case.lose()
    await case.sink.close()
    await case.sink.close()
    case.restore()
    assert case.arrived() == []
