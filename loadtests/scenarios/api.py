"""An API of known capacity: so many workers, each takes so long, and a queue that has an end.

`/_seen` tells which calls came and when, `/_release` lets those of `/held` go. A process of its
own: `python -m loadtests.scenarios.api PORT WORKERS SERVICE_MS QUEUE`.
"""

import asyncio
import json
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Final

import uvloop

from loadtests.soak.api import Call, Over

MOST_SEEN: Final = 200_000  # of the last calls
HELD_SECONDS: Final = 60.0  # the most that a held call waits for its release
_JSON: Final = "application/json"


class Api:
    """Answers in the order of arrival. `turned_away` counts calls that the queue had no place
    for: they got 503."""

    def __init__(self, *, workers: int, service_s: float, queue: int) -> None:
        self.seen: deque[tuple[float, str]] = deque(maxlen=MOST_SEEN)  # monotonic time, path
        self.turned_away = 0
        self._workers = asyncio.Semaphore(workers)
        self._service_s = service_s
        self._places = workers + queue
        self._inside = 0
        self._released = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        call = Call(reader, writer)
        try:
            with suppress(Over, OSError, asyncio.IncompleteReadError):
                while True:
                    await call.arrive()
                    await call.body()
                    await self._answer(call)
        finally:
            writer.close()

    async def _answer(self, call: Call) -> None:
        if call.path == "/_seen":
            told = {"calls": list(self.seen), "turned_away": self.turned_away}
            await call.whole(json.dumps(told).encode(), _JSON)
        elif call.path == "/_release":
            self._released.set()
            await call.whole(b"{}", _JSON)
        else:
            self.seen.append((time.monotonic(), call.path))
            await self._work(call)

    async def _work(self, call: Call) -> None:
        if call.path == "/held":
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), HELD_SECONDS)
            await call.whole(b"{}", _JSON)
            return
        if self._inside >= self._places:
            self.turned_away += 1
            await call.whole(b"{}", _JSON, "503 Service Unavailable")
            return
        self._inside += 1
        try:
            async with self._workers:
                await asyncio.sleep(self._service_s)
        finally:
            self._inside -= 1
        await call.whole(b"{}", _JSON)


async def main() -> None:
    """Serve on 127.0.0.1 until killed."""
    port, workers, service_ms, queue = map(int, sys.argv[1:])
    api = Api(workers=workers, service_s=service_ms / 1000, queue=queue)
    server = await asyncio.start_server(api.serve, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
