"""The API of the soak: fast, slow, streaming, large, failing, aborting and tunnelling.

It is a process of its own, so that it can be stopped, paused and started again.
"""

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import uvloop

LARGE: Final = bytes(range(256)) * 4096  # 1 MiB
PIECES: Final = 20
PIECE: Final = b"piece %d of a stream\n"
EVENT: Final = b'data: {"event": %d}\n\n'
MESSAGES: Final = 3  # after which /tunnel/short closes the connection
SLOW_SECONDS: Final = 0.2
BETWEEN_SECONDS: Final = 0.02
_SWITCH: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)
_RESET: Final = struct.pack("ii", 1, 0)


class ConnectionEnd(Exception):
    """The connection takes no further request."""


class Request:
    """One request, and the means to answer it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.method = self.path = ""
        self._fields: dict[str, str] = {}

    async def read_head(self) -> None:
        """Read a head. Raises ConnectionEnd at the end of the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            raise ConnectionEnd from None
        first, *lines = head[:-4].split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self._fields = {
            name.lower(): value for name, _, value in (x.partition(": ") for x in lines)
        }

    async def body(self) -> bytes:
        """Read the whole body."""
        if self._fields.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(int(self._fields.get("content-length", 0)))
        parts: list[bytes] = []
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readuntil(b"\r\n")
        return b"".join(parts)

    def head(self, *fields: str, status: str = "200 OK") -> None:
        """Begin an answer."""
        self.writer.write("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode())

    async def answer(self, body: bytes, kind: str, status: str = "200 OK") -> None:
        """Send an answer in one piece; for HEAD, only its head."""
        self.head(f"Content-Type: {kind}", f"Content-Length: {len(body)}", status=status)
        if self.method != "HEAD":
            self.writer.write(body)
        await self.writer.drain()

    async def answer_chunks(self, piece: bytes, kind: str, *, most: int = PIECES) -> None:
        """Send the beginning of a chunked answer."""
        self.head(f"Content-Type: {kind}", "Transfer-Encoding: chunked", "Trailer: Checked")
        for number in range(most):
            data = piece % number
            self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await self.writer.drain()
            await asyncio.sleep(BETWEEN_SECONDS)

    def reset(self) -> None:
        """Reset the connection."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()
        raise ConnectionEnd


async def fast(request: Request) -> None:
    await request.body()
    body = json.dumps({"method": request.method, "path": request.path}).encode()
    await request.answer(body, "application/json")


async def slow(request: Request) -> None:
    await asyncio.sleep(SLOW_SECONDS)
    await fast(request)


async def empty(request: Request) -> None:
    request.head(status="204 No Content")


async def failing(request: Request) -> None:
    await request.body()
    await request.answer(b'{"error": "internal"}', "application/json", "500 Internal Server Error")


async def echo(request: Request) -> None:
    await request.answer(await request.body(), "application/octet-stream")


async def early(request: Request) -> None:
    """Answer before the body has come, and never read it."""
    await request.answer(b"too large", "text/plain", "413 Content Too Large")
    raise ConnectionEnd


async def large(request: Request) -> None:
    await request.answer(LARGE, "application/octet-stream")


async def stream(request: Request) -> None:
    await request.answer_chunks(PIECE, "text/plain")
    request.writer.write(b"0\r\nChecked: yes\r\n\r\n")


async def events(request: Request) -> None:
    await request.answer_chunks(EVENT, "text/event-stream")
    request.writer.write(b"0\r\n\r\n")


async def broken(request: Request) -> None:
    """Send less than Content-Length."""
    request.head("Content-Type: text/plain", "Content-Length: 1000")
    request.writer.write(bytes(500))
    raise ConnectionEnd


async def reset(request: Request) -> None:
    request.reset()


async def reset_late(request: Request) -> None:
    await request.answer_chunks(PIECE, "text/plain", most=3)
    request.reset()


async def garbage(request: Request) -> None:
    request.writer.write(b"220 mail.example ESMTP\r\n\r\n")
    raise ConnectionEnd


async def tunnel(request: Request) -> None:
    """Echo everything, without end or (`/tunnel/short`) a few times."""
    request.writer.write(_SWITCH)
    echoed = 0
    while data := await request.reader.read(65_536):
        request.writer.write(data)
        await request.writer.drain()
        echoed += 1
        if request.path == "/tunnel/short" and echoed == MESSAGES:
            break
    raise ConnectionEnd


ANSWERS: Final[dict[str, Callable[[Request], Awaitable[None]]]] = {
    "/slow": slow, "/empty": empty, "/failing": failing, "/echo": echo, "/early": early,
    "/large": large, "/stream": stream, "/events": events, "/broken": broken, "/reset": reset,
    "/reset/late": reset_late, "/garbage": garbage, "/tunnel": tunnel, "/tunnel/short": tunnel,
}  # fmt: skip


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    request = Request(reader, writer)
    try:
        with suppress(ConnectionEnd, OSError, asyncio.IncompleteReadError):
            while True:
                await request.read_head()
                await ANSWERS.get(request.path, fast)(request)
                await writer.drain()
    finally:
        writer.close()


async def main() -> None:
    """Serve on 127.0.0.1, on the port given as the only argument."""
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
