"""The clients of a run, and the answers that they got."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

from loadtests.faults.accounts import CLIENTS, Client
from loadtests.soak.client import Connection, Ended, connect

Phase = Literal["before", "during", "after"]
REQUEST_SECONDS: Final = 10.0


class Measurements:
    """Statuses by phase and account, and the latency of critical requests by phase, in seconds."""

    def __init__(self) -> None:
        self.statuses: defaultdict[Phase, Counter[tuple[str, int]]] = defaultdict(Counter)
        self.critical: defaultdict[Phase, list[float]] = defaultdict(list)
        self.broken: Counter[str] = Counter()

    def add(self, other: "Measurements") -> None:
        """Add the statuses and broken answers of another run, without its latencies."""
        for phase, counts in other.statuses.items():
            self.statuses[phase] += counts
        self.broken += other.broken

    @property
    def requests(self) -> int:
        """How many answers came, whatever their status."""
        return sum(sum(counts.values()) for counts in self.statuses.values())


class Clients:
    """All client programs, spread evenly over the sidecars."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.phase: Phase = "before"
        self.measurements = Measurements()
        self._ports = ports
        self._stopped = False
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all programs."""
        for client in CLIENTS:
            for number in range(client.programs):
                port = self._ports[number % len(self._ports)]
                self._running.append(asyncio.create_task(self._program(client, port)))

    async def stop(self) -> None:
        """Return once each program has its last answer."""
        self._stopped = True
        await asyncio.gather(*self._running)

    async def _program(self, client: Client, port: int) -> None:
        method, path = client.request.split()
        length = "Content-Length: 0\r\n" if method == "POST" else ""
        key = f"X-Api-Key: {client.account}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: api\r\n{key}{length}\r\n".encode()
        connection: Connection | None = None
        while not self._stopped:
            if connection is None or connection.ended:
                connection = await connect(port)
            with suppress(Ended):
                await self._request(client, connection, head)
            await asyncio.sleep(client.pause)
        if connection is not None:
            connection.close()

    async def _request(self, client: Client, connection: Connection, head: bytes) -> None:
        phase, began = self.phase, time.monotonic()
        connection.send(head)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await connection.answer()
        except TimeoutError:
            self.measurements.broken["a request without an answer"] += 1
            connection.reset()
            return
        except Ended:
            self.measurements.broken["a connection that was closed without an answer"] += 1
            raise
        self.measurements.statuses[phase][client.account, answer.status] += 1
        if not answer.whole:
            self.measurements.broken["an incomplete answer"] += 1
        if client.critical:
            self.measurements.critical[phase].append(time.monotonic() - began)
        if answer.closes:
            connection.close()
