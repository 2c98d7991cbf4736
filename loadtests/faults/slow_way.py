"""A way to a server that can be made slow: replies come later, in order, none is lost."""

import asyncio
from typing import Final

PIECE: Final = 65_536


class SlowWay:
    """To 127.0.0.1:`to`. `delay`: seconds by which each reply is late from now on."""

    def __init__(self, to: int) -> None:
        self.delay = 0.0
        self._to = to

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until one side leaves."""
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._to)
        back = asyncio.create_task(self._back(onward_reader, writer))
        try:
            while data := await reader.read(PIECE):
                onward_writer.write(data)
                await onward_writer.drain()
        except ConnectionError:
            pass
        finally:
            onward_writer.close()
            await back

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(10_000)
        sender = asyncio.create_task(_send(due, writer))
        try:
            while data := await reader.read(PIECE):
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
