"""The measured clients: one sends standard requests, one critical ones.

Each has an account and an address of its own.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal

from loadtests.hostile.accounts import (
    CRITICAL_ADDRESS,
    CRITICAL_KEY,
    NORMAL_ADDRESS,
    NORMAL_KEY,
)
from loadtests.soak.client import Connection, Ended, connect

Phase = Literal["warm-up", "calm", "onset", "attack"]
ANSWER_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.05  # between two requests of a program
REQUESTS_PER_CONNECTION: Final = 10  # then the program opens a new one, as many clients do


@dataclass(frozen=True, slots=True)
class Client:
    """A client with several programs of one account."""

    name: str
    request: str
    key: str
    address: str
    programs: int

    @property
    def head(self) -> bytes:
        """The request, which has no body."""
        lines = [f"{self.request} HTTP/1.1", "Host: api", f"X-Api-Key: {self.key}"]
        if self.request.startswith("POST"):
            lines.append("Content-Length: 0")
        return "\r\n".join([*lines, "", ""]).encode()


NORMAL: Final = Client("normal", "GET /items", NORMAL_KEY, NORMAL_ADDRESS, 4)
CRITICAL: Final = Client("critical", "POST /login", CRITICAL_KEY, CRITICAL_ADDRESS, 3)
CLIENTS: Final = (NORMAL, CRITICAL)


class Measurements:
    """Latencies in seconds, by client and phase, and how often each failure occurred."""

    def __init__(self) -> None:
        self.latencies: dict[tuple[str, Phase], list[float]] = {}
        self.failures: Counter[str] = Counter()

    def of(self, client: Client, phase: Phase) -> list[float]:
        """The latencies of one client in one phase."""
        return self.latencies.setdefault((client.name, phase), [])


class MeasuredClients:
    """All programs of the measured clients."""

    def __init__(self, port: int) -> None:
        self.phase: Phase = "warm-up"
        self.measurements = Measurements()
        self._port = port
        self._stopped = False
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all programs."""
        for client in CLIENTS:
            for _ in range(client.programs):
                self._running.append(asyncio.create_task(self._program(client)))

    async def stop(self) -> None:
        """Return once each program has its last answer."""
        self._stopped = True
        await asyncio.gather(*self._running)

    async def _program(self, client: Client) -> None:
        while not self._stopped:
            try:
                await self._use_connection(client)
            except (OSError, Ended) as error:
                self.measurements.failures[f"{client.name}: connection failed: {error}"] += 1
                await asyncio.sleep(PAUSE_SECONDS)

    async def _use_connection(self, client: Client) -> None:
        """Send requests on one new connection. Raises OSError and Ended."""
        phase, began = self.phase, time.monotonic()
        connection = await connect(self._port, source=client.address)
        try:
            for _ in range(REQUESTS_PER_CONNECTION):
                if self._stopped or not await self._request(client, connection, phase, began):
                    return
                await asyncio.sleep(PAUSE_SECONDS)
                phase, began = self.phase, time.monotonic()
        finally:
            connection.close()

    async def _request(
        self, client: Client, connection: Connection, phase: Phase, began: float
    ) -> bool:
        """Send one request and record its answer. Returns whether the connection can be reused.

        The latency of a connection's first request includes the connect.
        """
        connection.send(client.head)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await connection.answer()
        except TimeoutError:
            self._fail(client, f"no answer within {ANSWER_SECONDS:g} s")
            return False
        self.measurements.of(client, phase).append(time.monotonic() - began)
        if answer.status != 200:
            self._fail(client, f"status {answer.status}")
        elif not answer.whole:
            self._fail(client, "an incomplete answer")
        return not answer.closes

    def _fail(self, client: Client, failure: str) -> None:
        self.measurements.failures[f"{client.name}: {failure}"] += 1
