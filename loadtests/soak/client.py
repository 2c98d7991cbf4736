"""An HTTP client that reports incomplete answers, resets, and the bytes before them."""

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Final, cast

PIECE: Final = 16_384  # bytes that are read at a time
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time


class Ended(Exception):
    """The other side closed the connection before the expected bytes came.

    `received`: the bytes before the end. `clean`: closed without a reset.
    """

    def __init__(self, received: bytes, *, clean: bool) -> None:
        self.received = received
        self.clean = clean
        super().__init__("closed" if clean else "reset")


@dataclass(slots=True)
class Answer:
    """An answer; `whole` is False if the connection ended inside its body."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes
    whole: bool

    @property
    def from_sidecar(self) -> bool:
        """Whether the sidecar gave the answer, not the API."""
        return self.fields.get(b"content-type") == b"application/problem+json"

    @property
    def id(self) -> str:
        """The request's id, or "" without one."""
        return self.fields.get(b"x-request-id", b"").decode()

    @property
    def closes(self) -> bool:
        """Whether the connection takes no further request."""
        return not self.whole or self.fields.get(b"connection", b"").lower() == b"close"


class Connection(asyncio.Protocol):
    """One connection. Bytes that came before its end can be read after it."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._ended = self._clean = False
        self._more: asyncio.Future[None] | None = None
        self._paused = False
        self._transport: asyncio.Transport | None = None

    @property
    def ended(self) -> bool:
        """Whether the other side has closed the connection."""
        return self._ended

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, once the connection exists."""
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > PIECE:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = self._clean = True
        self._wake()
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def _wait(self) -> None:
        """Wait for more bytes. Raises Ended if none will come."""
        if self._ended:
            raise Ended(self._take(len(self._received)), clean=self._clean)
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        self._more = asyncio.get_running_loop().create_future()
        await self._more

    def _take(self, size: int) -> bytes:
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def send(self, data: bytes) -> None:
        """Queue bytes for the other side, unless the connection is closing."""
        if not self.transport.is_closing():
            self.transport.write(data)

    async def until(self, mark: bytes) -> bytes:
        """Read up to and including the mark. Raises Ended."""
        while (at := self._received.find(mark)) < 0:
            await self._wait()
        return self._take(at + len(mark))

    async def exactly(self, size: int, *, rest: float = 0.0) -> bytes:
        """Read this many bytes; pause for `rest` seconds after each piece. Raises Ended."""
        parts: list[bytes] = []
        while size:
            try:
                while not self._received:
                    await self._wait()
            except Ended as end:
                raise Ended(b"".join(parts), clean=end.clean) from None
            parts.append(self._take(min(size, PIECE)))
            size -= len(parts[-1])
            if rest:
                await asyncio.sleep(rest)
        return b"".join(parts)

    async def answer(self, *, bodyless: bool = False, rest: float = 0.0) -> Answer:
        """Read the next answer, without 1xx except 101. Raises Ended if no head comes."""
        status, fields = await self.head()
        while status == 100:
            status, fields = await self.head()
        if bodyless or status in (101, 204, 304):
            return Answer(status, fields, b"", whole=True)
        parts: list[bytes] = []
        try:
            if fields.get(b"transfer-encoding") == b"chunked":
                await self._chunks(parts)
            else:
                parts.append(await self.exactly(int(fields[b"content-length"]), rest=rest))
        except Ended as end:
            return Answer(status, fields, b"".join([*parts, end.received]), whole=False)
        return Answer(status, fields, b"".join(parts), whole=True)

    async def may_continue(self) -> bool:
        """Whether the next answer is 100 (Continue). Raises Ended."""
        wanted = b"HTTP/1.1 100 "
        while len(self._received) < len(wanted):
            await self._wait()
        return self._received.startswith(wanted)

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Read the status and the fields (names in lower case) of a head. Raises Ended."""
        first, *lines = (await self.until(b"\r\n\r\n"))[:-4].split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def _chunks(self, parts: list[bytes]) -> None:
        while size := int(await self.until(b"\r\n"), 16):
            parts.append(await self.exactly(size))
            await self.exactly(2)
        while await self.until(b"\r\n") != b"\r\n":
            pass  # a trailer

    def close(self) -> None:
        """Close the connection in order."""
        self.transport.close()

    def reset(self) -> None:
        """Reset the connection."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self._ended:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


async def connect(port: int, *, receive_buffer: int = 0, source: str = "") -> Connection:
    """Connect to 127.0.0.1, from the address `source` if it is set.

    A small receive buffer, in bytes, makes a slow reader.
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        await loop.sock_connect(sock, ("127.0.0.1", port))
        _, connection = await loop.create_connection(Connection, sock=sock)
    except BaseException:
        sock.close()
        raise
    return connection
