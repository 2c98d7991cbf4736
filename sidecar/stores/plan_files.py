"""Plan files in Redis, compressed, by their version: the SHA-256 of the text."""

import zlib
from typing import Final

from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.scripts import run

TTL_MS: Final = 400 * 86_400_000  # since a version was last live
MOST_BYTES: Final = 32 << 20  # of all versions together, compressed


class PlanFiles:
    """Keeps plan files, by way of a sidecar's connection."""

    def __init__(self, wire: Connection, prefix: str) -> None:
        self._wire = wire
        self._names = keys.plan_files(prefix), keys.live_plan_files(prefix)

    async def renew(self, version: str) -> bool:
        """Note that a version is live. False: Redis does not have it. Raises StoreUnavailable."""
        return await self._keep(version, b"")

    async def keep(self, version: str, text: bytes) -> None:
        """Keep a plan file. Raises StoreUnavailable."""
        await self._keep(version, zlib.compress(text, 9))

    async def _keep(self, version: str, compressed: bytes) -> bool:
        status, *_ = await run(
            self._wire, "plans/keep", self._names, version, compressed, TTL_MS, MOST_BYTES
        )
        return bool(status == 1)
