"""The faults of a run, in three independent lanes: Redis, API and plan file.

Redis connections are closed while writes are paused. A connection that breaks between a reservation
and its reply leaves a counter too high, without an event, by design. Here that would keep counters
from being compared to the unit. For the same reason, clients that disconnect during a reservation
pause while connections are closed: their refunds would be lost.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from loadtests.processes import DidNotStart
from loadtests.soak.accounts import INVALID_FILE, plan_file
from loadtests.soak.environment import SoakEnvironment
from loadtests.soak.observations import Observations

REDIS_PAUSE: Final = 0.3  # seconds; after 1 s more the sidecar would close the connection
WRITES_PAUSE_MS: Final = 5_000  # an upper bound; the fault ends it earlier
READ_SECONDS: Final = 0.2
API_PAUSE: Final = 0.5
API_HANG: Final = 4.0  # beyond the sidecar's response timeout
SETTLE: Final = 0.5  # for clients that are disconnecting
POLLS: Final = 200  # whether the sidecar accepted or rejected a plan file
POLL_SECONDS: Final = 0.1
LONG_RUN: Final = 30.0
Fault = Callable[[], Awaitable[None]]


class Faults:
    """The lanes of faults; each lane injects its faults in turn, with a pause between two."""

    def __init__(
        self,
        environment: SoakEnvironment,
        observations: Observations,
        calm: asyncio.Event,
        *,
        pause: float,
        long: bool,
    ) -> None:
        self.closed_connections = 0
        self._environment = environment
        self._observations = observations
        self._calm = calm
        self._pause = pause
        self._variant = 0
        self._stopped = asyncio.Event()
        self._lanes: tuple[tuple[Fault, ...], ...] = (
            (self.redis_pauses, self.redis_connections_close),
            (self.api_restarts, self.api_pauses, *([self.api_hangs] if long else [])),
            (self.valid_plans, self.invalid_plans, self.hangup),
        )
        self._running: list[asyncio.Task[None]] = []

    @property
    def names(self) -> list[str]:
        """The names of all faults that the run must inject."""
        return [_name(fault) for lane in self._lanes for fault in lane]

    def start(self) -> None:
        """Start all lanes."""
        self._running = [asyncio.create_task(self._run_lane(lane)) for lane in self._lanes]

    async def stop(self) -> None:
        """Stop all lanes, and undo the faults that still last."""
        self._stopped.set()
        await asyncio.gather(*self._running)

    async def _run_lane(self, lane: Sequence[Fault]) -> None:
        number = 0
        while not self._stopped.is_set():
            fault = lane[number % len(lane)]
            number += 1
            try:
                await fault()
            except DidNotStart as error:
                self._observations.record_violation(str(error))
            self._observations.counts[_name(fault)] += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._stopped.wait()

    async def redis_pauses(self) -> None:
        async with self._environment.paused(self._environment.valkey):
            await asyncio.sleep(REDIS_PAUSE)

    async def redis_connections_close(self) -> None:
        self._calm.clear()
        try:
            await asyncio.sleep(SETTLE)
            await asyncio.to_thread(self._close_connections)
        finally:
            self._calm.set()

    def _close_connections(self) -> None:
        admin = self._environment.admin
        admin.client_pause(WRITES_PAUSE_MS, all=False)  # earlier replies have been sent
        time.sleep(READ_SECONDS)  # and are read: a reset discards unread bytes
        admin.client_kill_filter(_type="normal", skipme=True)
        admin.client_unpause()
        self.closed_connections += 1

    async def api_restarts(self) -> None:
        await self._environment.restart_api()

    async def api_pauses(self) -> None:
        async with self._environment.paused(self._environment.api):
            await asyncio.sleep(API_PAUSE)

    async def api_hangs(self) -> None:
        async with self._environment.paused(self._environment.api):
            await asyncio.sleep(API_HANG)

    async def valid_plans(self) -> None:
        self._variant += 1
        await self._write_plans(plan_file(self._variant), "sidecar_config_reloads_total")

    async def invalid_plans(self) -> None:
        await self._write_plans(INVALID_FILE, "sidecar_config_failures_total")

    async def hangup(self) -> None:
        self._environment.sidecar.popen.send_signal(signal.SIGHUP)

    async def _write_plans(self, text: str, counter: str) -> None:
        """Write a plan file, and wait until the sidecar has counted it."""
        before = (await self._environment.sample()).counts[counter]
        self._environment.write_plans(text)
        for _ in range(POLLS):
            if (await self._environment.sample()).counts[counter] > before:
                return
            await asyncio.sleep(POLL_SECONDS)
        self._observations.record_violation(f"a new plan file did not change {counter}")


def _name(fault: Fault) -> str:
    """The fault's name for people, such as "API restarts"."""
    return str(getattr(fault, "__name__", "")).replace("_", " ").replace("api", "API")
