"""A TCP relay to a server that can delay replies, in order and without loss."""

import asyncio
from typing import Final

CHUNK_BYTES: Final = 65_536


class SlowLink:
    """A relay to `port` of 127.0.0.1.

    `delay`: by how many seconds each reply is late from now on.
    """

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until one side closes it."""
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        replies = asyncio.create_task(self._relay_replies(server_reader, writer))
        try:
            while data := await reader.read(CHUNK_BYTES):
                server_writer.write(data)
                await server_writer.drain()
        except ConnectionError:
            pass
        finally:
            server_writer.close()
            await replies

    async def _relay_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(10_000)
        sender = asyncio.create_task(_send(due, writer))
        try:
            while data := await reader.read(CHUNK_BYTES):
                await due.put((loop.time() + self.delay, data))
        except ConnectionError:
            pass
        await due.put((loop.time(), b""))
        await sender


async def _send(due: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while True:
        at, data = await due.get()
        await asyncio.sleep(max(0.0, at - loop.time()))
        if not data:
            writer.close()
            return
        if not writer.transport.is_closing():
            writer.write(data)
