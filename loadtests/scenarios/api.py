"""An API of known capacity: a number of workers, a service time, and a bounded queue.

It is a process of its own: `python -m loadtests.scenarios.api PORT WORKERS SERVICE_MS QUEUE`.
`/_seen` returns which requests came and when; `/_release` answers the requests to `/held`.
"""

import asyncio
import json
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Final

import uvloop

from loadtests.soak.api import ConnectionEnd, Request

MOST_RECORDED: Final = 200_000  # of the last requests
HELD_SECONDS: Final = 60.0  # how long a request to /held waits at most
_JSON: Final = "application/json"


class Api:
    """An API that answers in the order of arrival.

    `turned_away` counts the requests beyond the queue, which got 503.
    """

    def __init__(self, *, workers: int, service_s: float, queue: int) -> None:
        self.arrivals: deque[tuple[float, str]] = deque(
            maxlen=MOST_RECORDED
        )  # monotonic time, path
        self.turned_away = 0
        self._workers = asyncio.Semaphore(workers)
        self._service_s = service_s
        self._capacity = workers + queue
        self._in_progress = 0
        self._released = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        request = Request(reader, writer)
        try:
            with suppress(ConnectionEnd, OSError, asyncio.IncompleteReadError):
                while True:
                    await request.read_head()
                    await request.body()
                    await self._answer(request)
        finally:
            writer.close()

    async def _answer(self, request: Request) -> None:
        if request.path == "/_seen":
            report = {"requests": list(self.arrivals), "turned_away": self.turned_away}
            await request.answer(json.dumps(report).encode(), _JSON)
        elif request.path == "/_release":
            self._released.set()
            await request.answer(b"{}", _JSON)
        else:
            self.arrivals.append((time.monotonic(), request.path))
            await self._work(request)

    async def _work(self, request: Request) -> None:
        if request.path == "/held":
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), HELD_SECONDS)
            await request.answer(b"{}", _JSON)
            return
        if self._in_progress >= self._capacity:
            self.turned_away += 1
            await request.answer(b"{}", _JSON, "503 Service Unavailable")
            return
        self._in_progress += 1
        try:
            async with self._workers:
                await asyncio.sleep(self._service_s)
        finally:
            self._in_progress -= 1
        await request.answer(b"{}", _JSON)


async def main() -> None:
    """Serve on 127.0.0.1 until killed."""
    port, workers, service_ms, queue = map(int, sys.argv[1:])
    api = Api(workers=workers, service_s=service_ms / 1000, queue=queue)
    server = await asyncio.start_server(api.serve, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
