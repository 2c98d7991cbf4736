"""Charges the journals of dead processes, then deletes them.

The entries of a journal are numbered. For each account, Redis knows the number up to which a
journal is charged, so an entry counts once even if two processes charge it.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sidecar.core.model import Claim
from sidecar.errors import StoreUnavailable
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.stores.commands import Commands, period_start
from sidecar.stores.connection.connect import Connection
from sidecar.stores.local.charger import Pair, Sum, charge_command
from sidecar.stores.local.journal_format import Entry, Owner
from sidecar.stores.local.journal_reader import (
    JournalReader,
    JournalSummary,
    lock_abandoned,
    summary,
)
from sidecar.stores.scripts import OTHER_PERIOD, load, run_command

log = logger("journal")

CHARGED_AT_ONCE: Final = 200
RETRY_SECONDS: Final = 0.2
BAD: Final = ".bad"
OPEN: Final = "/open"  # open reservations are charged as a journal with this suffix


class AbandonedJournals:
    """Journals that this process has locked and has to charge. `uncharged` counts requests."""

    def __init__(
        self, directory: Path, wire: Connection, commands: Commands, prefix: str, disk: Files
    ) -> None:
        self.uncharged = 0
        self._directory = directory
        self._wire = wire
        self._commands = commands
        self._prefix = prefix
        self._disk = disk
        self._script = load("limits/charge")
        self._locked: list[tuple[Path, int, int]] = []  # file, descriptor, requests

    async def find(self) -> list[JournalSummary]:
        """Lock the journals of dead processes; their contents."""
        summaries = []
        for path, fd in await asyncio.to_thread(lock_abandoned, self._directory):
            try:
                journal = await asyncio.to_thread(summary, path)
            except OSError as error:
                _log_unreadable(path, error)
                os.close(fd)
                continue
            log.info("journal_found", file=str(path), requests=journal.requests)
            self._locked.append((path, fd, journal.requests))
            self.uncharged += journal.requests
            summaries.append(journal)
        return summaries

    async def charge(self) -> None:
        """Charge all locked journals, however long Redis is unavailable.

        If the process ends before that, the next one charges the rest.
        """
        while self._locked:
            path, fd, requests = self._locked[0]
            try:
                await self._charge_file(path)
            except OSError as error:
                _log_unreadable(path, error)
            self._locked.pop(0)
            self.uncharged -= requests
            os.close(fd)

    async def _charge_file(self, path: Path) -> None:
        reader = JournalReader(path)
        chunks = reader.chunks()
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            await self._charge_entries(reader, chunk, "")
        await self._charge_entries(reader, list(reader.open.values()), OPEN)
        if reader.invalid_lines:
            log.error("journal_lines_invalid", file=str(path), invalid_lines=reader.invalid_lines)
            self._disk.rename(path, path.with_name(path.name + BAD))
        else:
            self._disk.remove(path)
        self._disk.sync_directory(path.parent)
        log.info("journal_charged", file=str(path))

    async def _charge_entries(
        self, reader: JournalReader, entries: Sequence[Entry], suffix: str
    ) -> None:
        if reader.header is None:
            return
        journal = reader.header.id + suffix
        by_pair: dict[Pair, list[Entry]] = {}
        for entry in sorted(entries):
            owner = reader.owners[entry.owner]
            by_pair.setdefault((owner.account.id, owner.key_id), []).append(entry)
        groups = list(by_pair.values())
        for at in range(0, len(groups), CHARGED_AT_ONCE):
            some = groups[at : at + CHARGED_AT_ONCE]
            await asyncio.gather(*(self._charge_pair(journal, reader.owners, one) for one in some))

    async def _charge_pair(
        self, journal: str, owners: dict[int, Owner], entries: list[Entry]
    ) -> None:
        now_us = 0
        while entries:
            reply = await self._run(self._sum(journal, owners, entries), now_us)
            if reply[0] >= 0:
                return
            if reply[0] == OTHER_PERIOD:
                now_us = reply[1]
            else:
                entries = [entry for entry in entries if entry.seq > reply[2]]

    def _sum(self, journal: str, owners: dict[int, Owner], entries: Sequence[Entry]) -> Sum:
        first = entries[0]
        owner = owners[first.owner]
        one = Sum(owner.account, owner.key_id, journal, first.seq, first.seq)
        one.ended = not first.is_open
        for entry in entries:
            owner, at_us = owners[entry.owner], entry.at_us
            claims, overage = [], entry.reported or (0,) * len(entry.costs)
            for quota, cost, reported in zip(owner.quotas, entry.costs, overage, strict=True):
                window = self._commands.window(quota, owner.account, at_us)
                claim = Claim(quota, cost, forced=True)
                claims.append((claim, period_start(window, at_us), reported))
            one.add(entry.seq, at_us, claims)
        return one

    async def _run(self, one: Sum, now_us: int) -> list[int]:
        """The reply to a charge, however long Redis is unavailable."""
        slot = self._commands.slot(one.account.id)
        command = charge_command(self._commands, self._prefix, one, now_us)
        while True:
            try:
                return await run_command(self._wire, self._script, command, slot)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Unlock the journals that are not charged, for another process."""
        for _, fd, _ in self._locked:
            os.close(fd)
        self._locked.clear()


def _log_unreadable(path: Path, error: OSError) -> None:
    log.error("journal_unreadable", file=str(path), error=error.strerror)
