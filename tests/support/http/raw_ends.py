"""Both ends of the sidecar as raw TCP connections that a test controls step by step."""

import asyncio
import socket
import struct
from dataclasses import replace
from typing import Any

from tests.support.stage import Stage

PATIENCE_S = 30  # timeout for a side that sends nothing; never a measure
BEAT_S = 0.02  # how long a slow sender checks for a response before its next byte


class End:
    """One end of a connection. Each wait for the other side has a timeout."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.was_reset = False

    async def send(self, data: bytes) -> None:
        """Send, and return when the kernel has taken it."""
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE_S):
            await self.writer.drain()

    async def get(self, wanted: bytes) -> bytes:
        """Check that the next bytes are these. Returns them."""
        async with asyncio.timeout(PATIENCE_S):
            got = await self.reader.readexactly(len(wanted))
        assert got == wanted
        return got

    async def head(self) -> bytes:
        """Read up to the next empty line, inclusive."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> bytes:
        """Read a complete response with Content-Length."""
        head = await self.head()
        return head + await self.body(head)

    async def body(self, head: bytes) -> bytes:
        """Read the body of the response with this head."""
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Read until the other side closes or resets the connection."""
        parts = []
        async with asyncio.timeout(PATIENCE_S):
            try:
                while data := await self.reader.read(1 << 16):
                    parts.append(data)
            except ConnectionError:
                self.was_reset = True
        return b"".join(parts)

    async def dribble(self, data: bytes) -> bytes:
        """Send byte by byte, and check for a response before each.

        Returns the response and all bytes after it. Fails if all bytes are sent before a response.
        """
        for number in range(len(data)):
            try:
                self.writer.write(data[number : number + 1])
                async with asyncio.timeout(BEAT_S):
                    first = await self.reader.read(1)
            except TimeoutError:
                continue
            except ConnectionError:
                return b""
            return first + await self.rest()
        raise AssertionError(f"{len(data)} bytes could be sent one by one")

    def half_close(self) -> None:
        """Close the sending side."""
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def abort(self) -> None:
        """Close at once, as a process that is killed does."""
        self.writer.transport.abort()


class Ends:
    """Opens clients, accepts connections for the upstream, and closes them all."""

    def __init__(self) -> None:
        self._accepted: asyncio.Queue[End] = asyncio.Queue()
        self._all: list[End] = []
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = End(reader, writer)
        self._all.append(end)
        self._accepted.put_nowait(end)

    async def upstream(self) -> End:
        """The next connection of the sidecar."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._accepted.get()

    @property
    def unanswered(self) -> int:
        """The number of connections of the sidecar that no test has taken."""
        return self._accepted.qsize()

    async def client(self, stage: Stage, *, receive_buffer: int = 0) -> End:
        """A client's connection; with a small receive buffer, it soon blocks the sender."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", stage.app.data_port.port))
        limit = receive_buffer or 1 << 16
        end = End(*await asyncio.open_connection(sock=sock, limit=limit))
        self._all.append(end)
        return end

    async def stop(self) -> None:
        self._server.close()
        for end in self._all:
            end.abort()


def bounded(stage: Stage, **bounds: Any) -> Stage:
    """The same sidecar with other bounds for new connections."""
    port = stage.app.data_port
    clients = port._clients
    clients.bounds = port._pool.bounds = replace(clients.bounds, **bounds)
    return stage


async def empty(stage: Stage) -> None:
    """Wait until no client is connected and no upstream connection is in use.

    Raises TimeoutError if a connection leaks.
    """
    pool = stage.app.data_port._pool
    async with asyncio.timeout(PATIENCE_S):
        while stage.app.data_port.connections or pool.size > pool.idle:
            await asyncio.sleep(0.01)


async def calls(stage: Stage) -> list[dict[str, Any]]:
    """The data of the usage events so far."""
    return [e["data"] for e in await stage.events() if e["type"] == "api.request.v1"]
