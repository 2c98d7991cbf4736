"""The API that is soaked: fast, slow, streaming, large, failing, breaking off, tunnelling.

A process of its own, so that it can be stopped, paused and started again.
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
MESSAGES: Final = 3  # after which /tunnel/short ends
SLOW_SECONDS: Final = 0.2
BETWEEN_SECONDS: Final = 0.02
_SWITCH: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)
_RESET: Final = struct.pack("ii", 1, 0)


class Over(Exception):
    """The connection takes no other request."""


class Call:
    """One request, and how it is answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.method = self.path = ""
        self._fields: dict[str, str] = {}

    async def arrive(self) -> None:
        """Read a head. Raises Over at the end of the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            raise Over from None
        first, *lines = head[:-4].split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self._fields = {
            name.lower(): value for name, _, value in (x.partition(": ") for x in lines)
        }

    async def body(self) -> bytes:
        """All of the request's body."""
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

    async def whole(self, body: bytes, kind: str, status: str = "200 OK") -> None:
        """An answer in one piece; to HEAD its head alone."""
        self.head(f"Content-Type: {kind}", f"Content-Length: {len(body)}", status=status)
        if self.method != "HEAD":
            self.writer.write(body)
        await self.writer.drain()

    async def chunks(self, piece: bytes, kind: str, *, most: int = PIECES) -> None:
        """The beginning of a chunked answer."""
        self.head(f"Content-Type: {kind}", "Transfer-Encoding: chunked", "Trailer: Checked")
        for number in range(most):
            data = piece % number
            self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await self.writer.drain()
            await asyncio.sleep(BETWEEN_SECONDS)

    def reset(self) -> None:
        """Be gone at once."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.writer.transport.abort()
        raise Over


async def fast(call: Call) -> None:
    await call.body()
    body = json.dumps({"method": call.method, "path": call.path}).encode()
    await call.whole(body, "application/json")


async def slow(call: Call) -> None:
    await asyncio.sleep(SLOW_SECONDS)
    await fast(call)


async def empty(call: Call) -> None:
    call.head(status="204 No Content")


async def failing(call: Call) -> None:
    await call.body()
    await call.whole(b'{"error": "ours"}', "application/json", "500 Internal Server Error")


async def echo(call: Call) -> None:
    await call.whole(await call.body(), "application/octet-stream")


async def early(call: Call) -> None:
    """An answer before the body has come, which is then never read."""
    await call.whole(b"no, thanks", "text/plain", "413 Content Too Large")
    raise Over


async def large(call: Call) -> None:
    await call.whole(LARGE, "application/octet-stream")


async def stream(call: Call) -> None:
    await call.chunks(PIECE, "text/plain")
    call.writer.write(b"0\r\nChecked: yes\r\n\r\n")


async def events(call: Call) -> None:
    await call.chunks(EVENT, "text/event-stream")
    call.writer.write(b"0\r\n\r\n")


async def broken(call: Call) -> None:
    """Less than was promised."""
    call.head("Content-Type: text/plain", "Content-Length: 1000")
    call.writer.write(bytes(500))
    raise Over


async def reset(call: Call) -> None:
    call.reset()


async def reset_late(call: Call) -> None:
    await call.chunks(PIECE, "text/plain", most=3)
    call.reset()


async def garbage(call: Call) -> None:
    call.writer.write(b"220 mail.example ESMTP\r\n\r\n")
    raise Over


async def tunnel(call: Call) -> None:
    """Say everything back, for ever or (/tunnel/short) a few times."""
    call.writer.write(_SWITCH)
    said = 0
    while data := await call.reader.read(65_536):
        call.writer.write(data)
        await call.writer.drain()
        said += 1
        if call.path == "/tunnel/short" and said == MESSAGES:
            break
    raise Over


ANSWERS: Final[dict[str, Callable[[Call], Awaitable[None]]]] = {
    "/slow": slow, "/empty": empty, "/failing": failing, "/echo": echo, "/early": early,
    "/large": large, "/stream": stream, "/events": events, "/broken": broken, "/reset": reset,
    "/reset/late": reset_late, "/garbage": garbage, "/tunnel": tunnel, "/tunnel/short": tunnel,
}  # fmt: skip


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    call = Call(reader, writer)
    try:
        with suppress(Over, OSError, asyncio.IncompleteReadError):
            while True:
                await call.arrive()
                await ANSWERS.get(call.path, fast)(call)
                await writer.drain()
    finally:
        writer.close()


async def main() -> None:
    """Serve on 127.0.0.1, on the port given as the only argument."""
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
