"""The channel between supervisor and worker: JSON objects over a socket pair.

Each end also notices the other's death by it, because the kernel then closes the pair.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

_LENGTH_BYTES: Final = 4  # in front of each message
_MAX_BYTES: Final = 64 << 20  # of one message: far more than any worker's metrics
Message = dict[str, Any]


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Channel":
        """A channel that owns the socket."""
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, message: Message) -> None:
        """Queue a message. It is lost if the other end dies before it reads the message."""
        text = json.dumps(message).encode()
        self._writer.write(len(text).to_bytes(_LENGTH_BYTES, "big") + text)

    async def flush(self) -> None:
        """Wait until the kernel has all messages, or the other end is closed."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def receive(self) -> Message | None:
        """The next message; None if the other end is closed."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            if length > _MAX_BYTES:
                return None
            message: Message = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    async def messages(self) -> AsyncIterator[Message]:
        """All messages until the other end is closed."""
        while (message := await self.receive()) is not None:
            yield message

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._writer.close()
