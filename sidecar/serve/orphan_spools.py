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

RETRY_S: Final = 5.0  # before the next attempt on a spool that is in use or not yet shipped
_DRAIN_S: Final = 60.0  # one attempt to ship what is left


class OrphanSpools:
    """Ships one orphan spool after the other.

    The spools stay on disk: their hash chains can still be verified, and a later worker of the
    same number appends to them.
    """

    def __init__(
        self,
        spools: Sequence[Path],
        make_sinks: Callable[[], Sequence[Sink]],
        *,
        max_bytes: int,
        retry_s: float = RETRY_S,
    ) -> None:
        self.waiting = list(spools)
        self._make_sinks = make_sinks
        self._max_bytes = max_bytes
        self._retry_s = retry_s
        self._spool: Spool | None = None

    @property
    def backlog(self) -> int:
        """Events of the current spool that a sink does not have yet; 0 between two spools."""
        return self._spool.backlog if self._spool else 0

    async def run(self) -> None:
        """Ship every spool. If cancelled, the next start ships the rest."""
        while self.waiting:
            path = self.waiting[0]
            try:
                await self._ship(path)
            except SpoolError as error:
                log.warning("orphan_spool_not_shipped", spool=str(path), error=str(error))
                await asyncio.sleep(self._retry_s)
                self.waiting.append(self.waiting.pop(0))
            else:
                self.waiting.remove(path)

    async def _ship(self, path: Path) -> None:
        """Ship one spool. Raises SpoolError if it is in use or cannot be read."""
        spool = Spool(path, max_bytes=self._max_bytes)
        await asyncio.to_thread(spool.open)  # reads a segment, while requests are served
        shipper = Shipper(spool, self._make_sinks())
        shipper.start()
        self._spool = spool
        events = spool.backlog
        try:
            if events:
                log.info("orphan_spool_found", spool=str(path), events=events)
            await self._drain(shipper)
            if events:
                log.info("orphan_spool_shipped", spool=str(path), events=events)
        finally:
            self._spool = None
            await shipper.close()
            await spool.close()

    async def _drain(self, shipper: Shipper) -> None:
        # A lane that has stopped for good returns at once: pause between attempts.
        drained = await shipper.drain(_DRAIN_S)
        while not drained:
            await asyncio.sleep(self._retry_s)
            drained = await shipper.drain(_DRAIN_S)
