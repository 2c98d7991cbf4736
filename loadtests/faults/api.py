"""The API behind the sidecars. It keeps book of what reaches it, by account."""

import asyncio
import time
from collections import Counter, defaultdict
from typing import Final

HELD_SECONDS: Final = 0.05
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Cost: %d\r\n\r\nok"
_COSTS: Final = 25  # an answer tells a cost below this


class Api:
    """`arrived`: when each call came (monotonic seconds); `most`: how many were there at once."""

    def __init__(self) -> None:
        self.arrived: defaultdict[str, list[float]] = defaultdict(list)
        self.most: Counter[str] = Counter()
        self._now: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the other side leaves. Raises IncompleteReadError then."""
        while True:
            await self._answer(await reader.readuntil(b"\r\n\r\n"), writer)

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        account = head.lower().partition(b"x-account-id: ")[2].partition(b"\r\n")[0].decode()
        calls = self.arrived[account]
        calls.append(time.monotonic())
        self._now[account] += 1
        self.most[account] = max(self.most[account], self._now[account])
        if head.startswith(b"GET /held"):
            await asyncio.sleep(HELD_SECONDS)
        self._now[account] -= 1
        writer.write(_ANSWER % (len(calls) % _COSTS))
        await writer.drain()
