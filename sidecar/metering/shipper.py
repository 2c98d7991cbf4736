"""Shipper: sends the spool's events to the sinks, one lane per sink, at least once."""

import asyncio
import random as _random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from sidecar.errors import SettingsError, SpoolError
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.metering.lane import Lane
from sidecar.metering.spool import Spool
from sidecar.ports import Sink

_CLOSE_TIMEOUT_S: Final = 5.0
_log = logger("shipper")


class Shipper:
    """Owner of the lanes. It deletes the segments that every sink has stored.

    `batch`: lines per delivery. `dead_bytes`: bound of a dead-letter file; a sink whose file is
    full stops, so that no event is lost. Cursor files are in `directory` (default: the spool's).
    """

    def __init__(
        self,
        spool: Spool,
        sinks: Sequence[Sink],
        *,
        batch: int = 500,
        dead_bytes: int = 16 << 20,
        directory: Path | None = None,
        files: Files | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        names = [sink.name for sink in sinks]
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"--sinks: {name} is listed twice; list each kind once")
        self._spool = spool
        self._sinks = sinks
        self._batch = batch
        self._dead_bytes = dead_bytes
        self._directory = directory or spool.directory
        self._files = files or Files()
        self._sleep = sleep
        self._random = random
        self._lanes: list[Lane] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._thread: ThreadPoolExecutor | None = None

    @property
    def lag(self) -> dict[str, int]:
        """Number of undelivered events, by sink."""
        return {lane.sink.name: lane.lag for lane in self._lanes}

    @property
    def up(self) -> dict[str, bool]:
        """Whether the last delivery succeeded and the lane has not stopped, by sink."""
        return {lane.sink.name: lane.up and not lane.stopped for lane in self._lanes}

    @property
    def faults(self) -> list[str]:
        """Why sinks store nothing now, one text per sink that does not."""
        return [
            f"sink {lane.sink.name}: {lane.error}"
            for lane in self._lanes
            if lane.stopped or not lane.up
        ]

    def start(self) -> None:
        """Start the lanes. Needs an open spool and a running loop."""
        if not self._sinks:
            return
        self._thread = ThreadPoolExecutor(len(self._sinks), thread_name_prefix="shipper")
        self._lanes = [
            Lane(
                self._spool,
                sink,
                batch=self._batch,
                dead_bytes=self._dead_bytes,
                directory=self._directory,
                files=self._files,
                thread=self._thread,
                sleep=self._sleep,
                random=self._random,
                on_progress=self._release,
            )
            for sink in self._sinks
        ]
        self._spool.on_commit.append(self._wake)
        self._update_spool()
        for lane in self._lanes:
            task = asyncio.create_task(lane.run(), name=f"ship to {lane.sink.name}")
            self._tasks.append(task)

    def _wake(self) -> None:
        for lane in self._lanes:
            lane.wake.set()

    def _update_spool(self) -> None:
        self._spool.shipped_seq = min(lane.cursor.seq for lane in self._lanes)

    async def _release(self) -> None:
        self._update_spool()
        await self._spool.release(min(lane.cursor.segment for lane in self._lanes))

    async def drain(self, timeout_s: float) -> bool:
        """Ship the events appended so far. Returns whether all are delivered in `timeout_s`."""
        target = self._spool.next_seq - 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._spool.flush()
                for lane in self._lanes:
                    if not lane.stopped and (lane.up or lane.lag):
                        lane.idle.clear()
                        lane.wake.set()
                        await lane.idle.wait()
        except (TimeoutError, SpoolError) as error:
            reason = str(error) or f"not finished within {timeout_s:g} s"
            _log.warning("sinks_not_drained", error=reason, lag_events=self.lag)
            return False
        return all(lane.cursor.seq >= target for lane in self._lanes)

    async def close(self) -> None:
        """Stop the lanes and close the sinks. Undelivered events stay in the spool."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._wake in self._spool.on_commit:
            self._spool.on_commit.remove(self._wake)
        for sink in self._sinks:
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await sink.close()
            except TimeoutError:
                _log.warning(
                    "sink_not_closed",
                    sink=sink.name,
                    error=f"not finished within {_CLOSE_TIMEOUT_S:g} s",
                )
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
