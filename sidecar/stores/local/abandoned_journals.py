"""Charges what dead processes left in their journals, then deletes them.

A journal is read in the order of its entries. What its process had charged already, Redis says:
entries are numbered, and the account keeps up to which one it was charged.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sidecar.core.model import Claim
from sidecar.errors import StoreUnavailable
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.stores.commands import Commands, period_start
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.wire import ReplyError, encode
from sidecar.stores.local.charger import Pair, Sum, charge_command
from sidecar.stores.local.journal_format import Entry, Owner
from sidecar.stores.local.journal_reader import JournalReader, Past, left_behind, summary
from sidecar.stores.scripts import load

log = logger("journal")

AT_ONCE: Final = 200  # charges on their way
RETRY_SECONDS: Final = 0.2
BAD: Final = ".bad"
OPEN: Final = "/open"  # calls that were not over: charged under a name of their own


class AbandonedJournals:
    """`waiting`: calls in journals that were found and are not charged yet."""

    def __init__(
        self, directory: Path, wire: Connection, commands: Commands, prefix: str, disk: Files
    ) -> None:
        self.waiting = 0
        self._directory = directory
        self._wire = wire
        self._commands = commands
        self._prefix = prefix
        self._disk = disk
        self._script = load("limits/charge")
        self._found: list[tuple[Path, int, int]] = []  # file, descriptor, calls

    async def find(self) -> list[Past]:
        """Take over journals whose process is dead; what stands in them."""
        found = await asyncio.to_thread(left_behind, self._directory)
        pasts = []
        for path, fd in found:
            try:
                past = await asyncio.to_thread(summary, path)
            except OSError as error:
                log.error("journal_unreadable", file=str(path), error=error.strerror)
                os.close(fd)
                continue
            log.info("journal_found", file=str(path), calls=past.calls)
            self._found.append((path, fd, past.calls))
            self.waiting += past.calls
            pasts.append(past)
        return pasts

    async def charge(self) -> None:
        """All that was found. Tries until Redis takes it; the next start goes on with the rest."""
        while self._found:
            path, fd, calls = self._found[0]
            try:
                await self._charge_file(path)
            except OSError as error:
                log.error("journal_unreadable", file=str(path), error=error.strerror)
            self._found.pop(0)
            self.waiting -= calls
            os.close(fd)

    async def _charge_file(self, path: Path) -> None:
        reader = JournalReader(path)
        chunks = reader.chunks()
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            await self._charge_all(reader, chunk, "")
        await self._charge_all(reader, list(reader.open.values()), OPEN)
        if reader.bad:
            log.error("journal_lines_invalid", file=str(path), lines=reader.bad)
            self._disk.rename(path, path.with_name(path.name + BAD))
        else:
            self._disk.remove(path)
        self._disk.sync_directory(path.parent)
        log.info("journal_charged", file=str(path))

    async def _charge_all(self, reader: JournalReader, entries: Sequence[Entry], mark: str) -> None:
        if reader.header is None:
            return
        journal = reader.header.id + mark
        pairs: dict[Pair, list[Entry]] = {}
        for entry in sorted(entries):
            owner = reader.owners[entry.owner]
            pairs.setdefault((owner.account.id, owner.key_id), []).append(entry)
        all_of = list(pairs.values())
        for at in range(0, len(all_of), AT_ONCE):
            some = all_of[at : at + AT_ONCE]
            await asyncio.gather(*(self._charge_one(journal, reader.owners, one) for one in some))

    async def _charge_one(
        self, journal: str, owners: dict[int, Owner], entries: list[Entry]
    ) -> None:
        now_us = 0
        while entries:
            one = self._added_up(journal, owners, entries)
            reply = await self._ask(one, now_us)
            if reply[0] >= 0:
                return
            if reply[0] == -1:
                now_us = reply[1]
            else:
                entries = [entry for entry in entries if entry.seq > reply[2]]

    def _added_up(self, journal: str, owners: dict[int, Owner], entries: Sequence[Entry]) -> Sum:
        first = entries[0]
        one = Sum(
            owners[first.owner].account, owners[first.owner].key_id, journal, first.seq, first.seq
        )
        for entry in entries:
            owner, at_us = owners[entry.owner], entry.at_us
            claims = []
            for quota, cost in zip(owner.quotas, entry.costs, strict=True):
                window = self._commands.window(quota, owner.account, at_us)
                claims.append((Claim(quota, cost, forced=True), period_start(window, at_us)))
            one.add(entry.seq, claims)
        return one

    async def _ask(self, one: Sum, now_us: int) -> list[int]:
        """Redis' answer, however long it takes."""
        slot = self._commands.slot(one.account.id)
        command = charge_command(self._commands, self._prefix, one, now_us)
        while True:
            try:
                reply: Any = await self._wire.execute(command, None, slot)
            except StoreUnavailable:
                reply = None
            if isinstance(reply, ReplyError) and reply.text.startswith("NOSCRIPT"):
                self._wire.tell(encode(b"SCRIPT", b"LOAD", self._script.text), slot)
            elif isinstance(reply, list) and len(reply) >= 2:
                return reply
            else:
                await asyncio.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Let go of what is not charged: the next process takes it over."""
        for _, fd, _ in self._found:
            os.close(fd)
        self._found.clear()
