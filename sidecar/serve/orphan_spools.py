"""Ships the spools of workers that no longer exist, until every sink has all of their events."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sidecar.errors import SpoolError
from sidecar.logs import logger
from sidecar.metering.shipper import Shipper
from sidecar.metering.spool import Spool
from sidecar.ports import Sink

log = logger("spool")

BUSY_S: Final = 5.0  # before a spool that another process still holds is tried again
_DRAIN_S: Final = 60.0  # of one attempt; they go on as long as events are left


class OrphanSpools:
    """One spool after the other. `backlog`: events of the current one that a sink has not got.

    The spools stay where they are: the chain and its events can still be verified, and a worker
    of that number that comes back goes on with it.
    """

    def __init__(
        self,
        spools: Sequence[Path],
        make_sinks: Callable[[], Sequence[Sink]],
        *,
        max_bytes: int,
        busy_s: float = BUSY_S,
    ) -> None:
        self.waiting = list(spools)
        self._make_sinks = make_sinks
        self._max_bytes = max_bytes
        self._busy_s = busy_s
        self._spool: Spool | None = None

    @property
    def backlog(self) -> int:
        """0 also between two spools."""
        return self._spool.backlog if self._spool else 0

    async def run(self) -> None:
        """Until nothing is left. Cancelled: what is left waits for the next start."""
        while self.waiting:
            path = self.waiting[0]
            try:
                await self._ship(path)
            except SpoolError as error:
                log.warning("orphan_spool_not_shipped", spool=str(path),
                            error=str(error))  # fmt: skip
                await asyncio.sleep(self._busy_s)
                self.waiting.append(self.waiting.pop(0))
            else:
                self.waiting.remove(path)

    async def _ship(self, path: Path) -> None:
        """Raises SpoolError when the spool is in use or cannot be read."""
        spool = Spool(path, max_bytes=self._max_bytes)
        await asyncio.to_thread(spool.open)  # it reads a segment, and calls are being served
        shipper = Shipper(spool, self._make_sinks())
        shipper.start()
        self._spool = spool
        events = spool.backlog
        try:
            if events:
                log.info("orphan_spool_found", spool=str(path), events=events)
            # A lane that has stopped for good does not wait: pause between attempts.
            while not await shipper.drain(_DRAIN_S):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(self._busy_s)
            if events:
                log.info("orphan_spool_shipped", spool=str(path), events=events)
        finally:
            self._spool = None
            await shipper.close()
            await spool.close()
