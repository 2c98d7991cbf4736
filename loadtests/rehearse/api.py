"""The API in a pod of the rehearsal: `python -m loadtests.rehearse.api PORT`.

On SIGTERM, it closes its port at once, finishes the requests that it has, and ends, as most
frameworks do. It serves no other request on an open connection.
"""

import asyncio
import signal
import sys
from typing import Final

LATENCY_S: Final = 0.005
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n"
BODY: Final = b'{"ok":true}'


class Api:
    """Answers every request without a body after LATENCY_S."""

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self._busy = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()

    async def run(self, port: int) -> None:
        """Serve until `ending` is set, and finish the requests of that moment."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=512)
        await self.ending.wait()
        server.close()
        while self._busy:
            await self._change()
        for writer in self._writers:
            writer.transport.abort()
        while self._writers:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while not self.ending.is_set():
                await reader.readuntil(b"\r\n\r\n")
                await self._answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
            self._changed.set()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        self._busy += 1
        try:
            await asyncio.sleep(LATENCY_S)
            writer.write(_ANSWER + BODY)
            await writer.drain()
        finally:
            self._busy -= 1
            self._changed.set()


async def _serve_until_signal(port: int) -> None:
    api = Api()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, api.ending.set)
    await api.run(port)


if __name__ == "__main__":
    asyncio.run(_serve_until_signal(int(sys.argv[1])))
