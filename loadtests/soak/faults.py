"""What goes wrong in a run, in three lanes that know nothing of each other: store, API, plan file.

Connections to the store are killed while writes stand still. A connection that breaks between
a reservation and its answer leaves a counter too high, with no event, by design; so it must
not happen user, or the books could not be compared to the unit. For the same reason clients
that would leave in the time of a reservation wait meanwhile: their refunds would be lost.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from loadtests.processes import DidNotStart
from loadtests.soak.accounts import BAD_FILE, plan_file
from loadtests.soak.environment import SoakEnvironment
from loadtests.soak.observations import Observations

STORE_PAUSE: Final = 0.3  # seconds; with 1 s more the sidecar would give the connection up
WRITES_PAUSE_MS: Final = 5_000  # ended long before, unless this machine stands still
READ: Final = 0.2
API_PAUSE: Final = 0.5
API_HANG: Final = 4.0  # beyond the sidecar's patience
SETTLE: Final = 0.5  # what those who are leaving need
SAMPLES: Final = 200  # whether a plan file was taken or refused
POLL_SECONDS: Final = 0.1
LONG_RUN: Final = 30.0
Fault = Callable[[], Awaitable[None]]


class Faults:
    """Each fault of a lane in turn, with a pause between two, until it is enough."""

    def __init__(
        self,
        environment: SoakEnvironment,
        observations: Observations,
        calm: asyncio.Event,
        *,
        pause: float,
        long: bool,
    ) -> None:
        self.kills = 0
        self._environment = environment
        self._observations = observations
        self._calm = calm
        self._pause = pause
        self._variant = 0
        self._over = asyncio.Event()
        self._lanes: tuple[tuple[Fault, ...], ...] = (
            (self.store_pauses, self.store_connections_die),
            (self.api_restarts, self.api_pauses, *([self.api_hangs] if long else [])),
            (self.good_plans, self.bad_plans, self.hangup),
        )
        self._running: list[asyncio.Task[None]] = []

    @property
    def names(self) -> list[str]:
        """Of all faults that ought to happen."""
        return [_name(fault) for lane in self._lanes for fault in lane]

    def start(self) -> None:
        """Begin all lanes."""
        self._running = [asyncio.create_task(self._go_through(lane)) for lane in self._lanes]

    async def stop(self) -> None:
        """No further fault; those under way are undone."""
        self._over.set()
        await asyncio.gather(*self._running)

    async def _go_through(self, lane: Sequence[Fault]) -> None:
        number = 0
        while not self._over.is_set():
            fault = lane[number % len(lane)]
            number += 1
            try:
                await fault()
            except DidNotStart as error:
                self._observations.violate(str(error))
            self._observations.counts[_name(fault)] += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._over.wait()

    async def store_pauses(self) -> None:
        async with self._environment.paused(self._environment.valkey):
            await asyncio.sleep(STORE_PAUSE)

    async def store_connections_die(self) -> None:
        self._calm.clear()
        try:
            await asyncio.sleep(SETTLE)
            await asyncio.to_thread(self._kill)
        finally:
            self._calm.set()

    def _kill(self) -> None:
        admin = self._environment.admin
        admin.client_pause(WRITES_PAUSE_MS, all=False)  # what was answered by now has been sent
        time.sleep(READ)  # and is read: a reset takes away what lies unread
        admin.client_kill_filter(_type="normal", skipme=True)
        admin.client_unpause()
        self.kills += 1

    async def api_restarts(self) -> None:
        await self._environment.restart_api()

    async def api_pauses(self) -> None:
        async with self._environment.paused(self._environment.api):
            await asyncio.sleep(API_PAUSE)

    async def api_hangs(self) -> None:
        async with self._environment.paused(self._environment.api):
            await asyncio.sleep(API_HANG)

    async def good_plans(self) -> None:
        self._variant += 1
        await self._put(plan_file(self._variant), "sidecar_config_reloads_total")

    async def bad_plans(self) -> None:
        await self._put(BAD_FILE, "sidecar_config_failures_total")

    async def hangup(self) -> None:
        self._environment.sidecar.popen.send_signal(signal.SIGHUP)

    async def _put(self, text: str, counter: str) -> None:
        """Write a plan file and wait until the sidecar has counted it."""
        before = (await self._environment.sample()).counts[counter]
        self._environment.write_plans(text)
        for _ in range(SAMPLES):
            if (await self._environment.sample()).counts[counter] > before:
                return
            await asyncio.sleep(POLL_SECONDS)
        self._observations.violate(f"a new plan file moved no {counter}")


def _name(fault: Fault) -> str:
    """`api_restarts` is told as "API restarts"."""
    return str(getattr(fault, "__name__", "")).replace("_", " ").replace("api", "API")
