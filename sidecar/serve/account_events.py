"""Account events: makes events of the changes that commands made, from their records in Redis."""

import asyncio
from typing import Final

from sidecar.core.events.changes import event_of
from sidecar.errors import SpoolError, StoreUnavailable
from sidecar.logs import logger
from sidecar.metering.spool import Spool
from sidecar.stores.outbox import ACCOUNTS_AT_ONCE, Announced, Outbox

POLL_S: Final = 1.0
_log = logger("accounts")


class AccountEvents:
    """Moves records from outboxes to the spool, while this sidecar has the lease.

    `source`: of all these events. A record stays in Redis until its event is on disk.
    """

    def __init__(self, outbox: Outbox, spool: Spool, prefix: str) -> None:
        self._outbox = outbox
        self._spool = spool
        self._source = f"/sidecar/accounts/{prefix}"
        self._failed = False

    async def run(self) -> None:
        """Move records, until cancelled."""
        while True:
            try:
                if self._outbox.up and self._spool.accepting:
                    await self.drain()
                self._failed = False
            except (StoreUnavailable, SpoolError) as error:
                if not self._failed:
                    _log.warning("account_events_delayed", error=str(error))
                self._failed = True
            await asyncio.sleep(POLL_S)

    async def drain(self) -> int:
        """Move all records; their number. Raises StoreUnavailable, SpoolError."""
        moved, start_us = 0, 0
        while True:
            announced = await self._outbox.take(start_us)
            for one in announced or ():
                moved += await self._drain_account(one)
            if announced is None or len(announced) < ACCOUNTS_AT_ONCE:
                return moved
            last_us = announced[-1].at_us
            start_us = last_us if last_us > start_us else start_us + 1

    async def _drain_account(self, announced: Announced) -> int:
        account, moved = announced.account, 0
        while records := await self._outbox.read(account):
            for record in records:
                self._append(account, record)
            await self._spool.flush()  # a record is only removed after that
            await self._outbox.remove(account, records)
            moved += len(records)
        if not moved:
            await self._outbox.retire(account)
        return moved

    def _append(self, account: str, record: bytes) -> None:
        """Append the event of a record. Raises SpoolError if the spool drops it."""
        try:
            event = event_of(record.decode(), account, self._source)
        except (ValueError, OverflowError) as error:
            text = record[:1_000].decode(errors="replace")
            _log.error("account_record_unreadable", account=account, record=text, error=str(error))
            return
        seq = self._spool.next_seq
        self._spool.append(event)
        if self._spool.next_seq == seq:
            raise SpoolError(f"--spool: {self._spool.directory} does not accept events")
