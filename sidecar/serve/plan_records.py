"""Plan records: the plan file behind each `plan_version`, beside the spool and in Redis."""

import asyncio
from pathlib import Path
from typing import Final

from sidecar.config import archive
from sidecar.errors import StoreUnavailable
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.stores import PlanFiles

RENEW_S: Final = 3_600.0  # between two notes in Redis that a version is live
RETRY_S: Final = 5.0
MOST_WAITING: Final = 100  # versions that Redis does not have yet; the spool has them
_log = logger("config")


class PlanRecords:
    """Keeps each live plan file. `run` has to run all the time."""

    def __init__(self, plan_file: Path, spool: Path, store: PlanFiles) -> None:
        self._plan_file = plan_file
        self._spool = spool
        self._store = store
        self._changed = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[bool]] = {}  # version → when it is in the spool
        self._live = ""
        self._text: bytes | None = None  # of the live version, for a new spool directory
        self._failed = False

    def live(self, version: str) -> None:
        """Keep the plan file, which has just become live: now in the spool, soon in Redis."""
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.pop(next(iter(self._waiting)))
        self._live, self._text = version, None
        self._waiting[version] = loop.run_in_executor(None, self._archive, version)
        self._changed.set()

    def keep_again(self) -> None:
        """Keep the live plan file again: the spool's directory may be a new one."""
        if self._live:
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._archive, self._live, self._text)

    def _archive(self, version: str, text: bytes | None = None) -> bool:
        """Keep a version in the spool, and its text in memory. Blocks."""
        directory = self._spool / archive.DIRECTORY
        kept = archive.archive(directory, self._plan_file, version, Files(), text)
        text = archive.text_of(self._spool, self._plan_file, version)
        if text is not None and version == self._live:
            self._text = text
        return kept

    async def run(self) -> None:
        """Put versions into Redis, and note there which one is live, until cancelled."""
        while True:
            self._changed.clear()
            delay_s = RENEW_S if await self.share() else RETRY_S
            try:
                async with asyncio.timeout(delay_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def share(self) -> bool:
        """Put into Redis what it lacks. Returns whether it has all."""
        try:
            for version, archived in list(self._waiting.items()):
                await asyncio.wait([archived])
                await self._put(version)
                self._waiting.pop(version, None)
            if self._live:
                await self._put(self._live)
        except StoreUnavailable as error:
            if not self._failed:
                _log.warning("plan_file_not_in_redis", version=self._live, error=str(error))
            self._failed = True
            return False
        self._failed = False
        return True

    async def _put(self, version: str) -> None:
        if await self._store.renew(version):
            return
        text = await asyncio.get_running_loop().run_in_executor(
            None, archive.text_of, self._spool, self._plan_file, version
        )
        if text is not None:  # else the file changed before it was read
            await self._store.keep(version, text)
