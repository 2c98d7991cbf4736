"""What supervisor and worker say to each other: JSON objects over a socket pair.

The pair is also how each learns that the other is gone, however it ended: the kernel closes it.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

_LENGTH: Final = 4  # bytes in front of each message
_MOST: Final = 64 << 20  # bytes of a message: far more than any worker's metrics
Message = dict[str, Any]


class Channel:
    """One end of the pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> "Channel":
        """Takes the socket over."""
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, message: Message) -> None:
        """Queue a message. What the other end does not live to read is lost."""
        text = json.dumps(message).encode()
        self._writer.write(len(text).to_bytes(_LENGTH, "big") + text)

    async def flush(self) -> None:
        """Wait until what was sent is with the kernel, or the other end is gone."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH), "big")
            if length > _MOST:
                return None
            message: Message = json.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    async def messages(self) -> AsyncIterator[Message]:
        """All that come, until the other end is gone."""
        while (message := await self.receive()) is not None:
            yield message

    def close(self) -> None:
        """Let go of the socket. Idempotent."""
        self._writer.close()
