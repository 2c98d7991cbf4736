"""An API that sends the rest of its responses when the test says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.support.processes import until


class HeldApi:
    """Sends `before`, and `after` when `left` is set. `cut`: the connections that ended."""

    port = 0

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after = before, after
        self.left = asyncio.Event()
        self.asked = self.cut = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_length(head))
            self.asked += 1
            writer.write(self.before)
            waiting = asyncio.ensure_future(self.left.wait())
            ended = asyncio.ensure_future(reader.read())
            await asyncio.wait([waiting, ended], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                writer.write(self.after)
            waiting.cancel()
            await ended
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            self.cut += 1


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])


@contextlib.asynccontextmanager
async def held(before: bytes, after: bytes) -> AsyncIterator[HeldApi]:
    """Serve such an API. At the end, all of its connections are closed."""
    served = HeldApi(before, after)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        for writer in served.writers:
            writer.transport.abort()
        await until(lambda: served.cut == len(served.writers))
        server.close()
