"""The programs that call, and what they saw."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

from loadtests.faults.accounts import CALLERS, Caller
from loadtests.soak.client import Connection, Ended, connect

Phase = Literal["before", "during", "after"]
CALL_SECONDS: Final = 10.0


class Seen:
    """Statuses by phase and account; how long critical calls took, in seconds, by phase."""

    def __init__(self) -> None:
        self.statuses: defaultdict[Phase, Counter[tuple[str, int]]] = defaultdict(Counter)
        self.critical: defaultdict[Phase, list[float]] = defaultdict(list)
        self.broken: Counter[str] = Counter()

    def add(self, other: "Seen") -> None:
        """Statuses that another has seen, and what was broken; not how long it took."""
        for phase, counts in other.statuses.items():
            self.statuses[phase] += counts
        self.broken += other.broken

    @property
    def calls(self) -> int:
        """Answers of all kinds."""
        return sum(sum(counts.values()) for counts in self.statuses.values())


class Calls:
    """All programs: each calls one sidecar, in turns."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.phase: Phase = "before"
        self.seen = Seen()
        self._ports = ports
        self._over = False
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """All at once."""
        for caller in CALLERS:
            for number in range(caller.programs):
                port = self._ports[number % len(self._ports)]
                self._running.append(asyncio.create_task(self._program(caller, port)))

    async def stop(self) -> None:
        """When each has its last answer."""
        self._over = True
        await asyncio.gather(*self._running)

    async def _program(self, caller: Caller, port: int) -> None:
        method, path = caller.request.split()
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        key = f"X-Api-Key: {caller.account}\r\n"
        request = f"{method} {path} HTTP/1.1\r\nHost: api\r\n{key}{length}\r\n".encode()
        connection: Connection | None = None
        while not self._over:
            if connection is None or connection.ended:
                connection = await connect(port)
            with suppress(Ended):
                await self._call(caller, connection, request)
            await asyncio.sleep(caller.pause)
        if connection is not None:
            connection.close()

    async def _call(self, caller: Caller, connection: Connection, request: bytes) -> None:
        phase, began = self.phase, time.monotonic()
        connection.send(request)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                answer = await connection.answer()
        except TimeoutError:
            self.seen.broken["a call without an answer"] += 1
            connection.reset()
            return
        except Ended:
            self.seen.broken["a connection that was closed without an answer"] += 1
            raise
        self.seen.statuses[phase][caller.account, answer.status] += 1
        if not answer.whole:
            self.seen.broken["an answer that was cut"] += 1
        if caller.critical:
            self.seen.critical[phase].append(time.monotonic() - began)
        if answer.closes:
            connection.close()
