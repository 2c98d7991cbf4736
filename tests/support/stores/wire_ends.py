"""Servers that stop and restart, and relays in front of them, for tests of connections."""

import asyncio
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sidecar.stores import Wire
from tests.support.servers import free_port, start_valkey


class Server:
    """A Valkey server that keeps its port when it restarts."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process, _ = start_valkey(self._directory, *self._options, port=self.port)

    def pause(self) -> None:
        """Stop the process with SIGSTOP. Connections stay open, and the kernel accepts new ones."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()  # also a stopped process
            self._process.wait()
            self._process = None


@contextmanager
def a_server(directory: Path, *options: str) -> Iterator[Server]:
    server = Server(directory, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def a_wire(
    url: str, *, timeout_s: float = 10, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Wire]:
    """A started wire, whether its server is available or not."""
    wire = Wire(url, timeout_s=timeout_s, tls=tls)
    async with asyncio.timeout(60):
        await wire.start()
    try:
        yield wire
    finally:
        await wire.stop()


async def until_up(wire: Wire, up: bool = True) -> None:
    async with asyncio.timeout(60):
        while wire.up is not up:
            await asyncio.sleep(0.005)


async def until_reconnected(wire: Wire) -> None:
    async with asyncio.timeout(60):
        while wire.reconnects == 0 or not wire.up:
            await asyncio.sleep(0.005)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def a_listener(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port whose connections `serve` handles; they close at the end."""
    running: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running[writer] = asyncio.current_task()
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass  # the client closed it, which its test checks
        finally:
            writer.transport.abort()
            del running[writer]

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for _ in range(20):  # asyncio leaks a connection whose server closes while it accepts
            await asyncio.sleep(0)
        server.close()
        left = [task for task in running.values() if task is not None]
        for writer in running:
            writer.transport.abort()
        async with asyncio.timeout(60):
            await asyncio.gather(*left)
        await asyncio.sleep(0)  # one turn of the loop, to close aborted connections


class SlowNetwork:
    """A relay in front of a Valkey that passes on a given number of reply lines."""

    def __init__(self) -> None:
        self.pings = 0  # PINGs from the client
        self.lines = asyncio.Semaphore(0)

    async def read_commands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            self.pings += data.count(b"PING")
            writer.write(data)
            await writer.drain()

    async def read_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while line := await reader.readline():
            await self.lines.acquire()
            writer.write(line)
            await writer.drain()

    def pass_on(self, lines: int) -> None:
        for _ in range(lines):
            self.lines.release()


@asynccontextmanager
async def a_slow_network(port: int) -> AsyncIterator[tuple[SlowNetwork, int]]:
    """A slow network, and its port. It passes on the first replies to a wire."""
    network = SlowNetwork()
    network.pass_on(1)
    async with a_relay(network.read_commands, network.read_replies, port) as listening:
        yield network, listening


@asynccontextmanager
async def a_tls_terminator(context: ssl.SSLContext, port: int) -> AsyncIterator[int]:
    """The port of a relay from TLS to plain TCP on 127.0.0.1:`port`."""
    async with a_relay(copy, copy, port, context) as listening:
        yield listening


@asynccontextmanager
async def a_relay(
    there: Serve, back: Serve, port: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """The port of a relay to 127.0.0.1:`port`. If one end closes, it closes the other."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)
        both = [
            asyncio.create_task(there(reader, onward_writer)),
            asyncio.create_task(back(onward_reader, writer)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        onward_writer.transport.abort()
        writer.transport.abort()
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)

    async with a_listener(serve, context) as listening:
        yield listening


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


class Cable:
    """A relay to 127.0.0.1:`to` that can be cut and mended. New connections use a changed `to`."""

    def __init__(self, to: int) -> None:
        self.to = to
        self._whole = asyncio.Event()
        self._cut = asyncio.Event()
        self.mend()

    def cut(self) -> None:
        self._whole.clear()
        self._cut.set()

    def mend(self) -> None:
        self._cut.clear()
        self._whole.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole.is_set():
            return
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self.to)
        tasks = [
            asyncio.create_task(copy(reader, onward_writer)),
            asyncio.create_task(copy(onward_reader, writer)),
            asyncio.create_task(self._wait_for_the_cut()),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        onward_writer.transport.abort()
        writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for_the_cut(self) -> None:
        await self._cut.wait()


@asynccontextmanager
async def a_cable(port: int) -> AsyncIterator[tuple[Cable, int]]:
    """A cable, and its port."""
    cable = Cable(port)
    async with a_listener(cable.serve) as listening:
        yield cable, listening
