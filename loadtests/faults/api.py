"""The API behind the sidecars, with a record of the requests that reach it, by account."""

import asyncio
import time
from collections import Counter, defaultdict
from typing import Final

SLOW_SECONDS: Final = 0.05
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Cost: %d\r\n\r\nok"
_COSTS: Final = 25  # the cost in an answer is below this


class Api:
    """An API that records arrivals.

    `arrived`: when each request arrived, in monotonic seconds. `most`: the most requests in flight
    at once.
    """

    def __init__(self) -> None:
        self.arrived: defaultdict[str, list[float]] = defaultdict(list)
        self.most: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until the other side closes it. Raises IncompleteReadError then."""
        while True:
            await self._answer(await reader.readuntil(b"\r\n\r\n"), writer)

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        account = head.lower().partition(b"x-account-id: ")[2].partition(b"\r\n")[0].decode()
        arrivals = self.arrived[account]
        arrivals.append(time.monotonic())
        self._in_flight[account] += 1
        self.most[account] = max(self.most[account], self._in_flight[account])
        if head.startswith(b"GET /slow"):
            await asyncio.sleep(SLOW_SECONDS)
        self._in_flight[account] -= 1
        writer.write(_ANSWER % (len(arrivals) % _COSTS))
        await writer.drain()
