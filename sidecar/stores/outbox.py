"""The outboxes of accounts: records of changes by commands, of which a sidecar makes events.

A command announces a change of an account, then writes the change and its record in one
transaction. One sidecar at a time, which has the lease, reads the records, writes their events into
its spool, and removes them once the events are on disk. If it dies before it has removed them,
another sidecar makes the same events again: copies, with the same source and id.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sidecar.core.kinds import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import encode
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.scripts import run

LEASE_MS: Final = 5_000
GRACE_US: Final = 600 * MICRO  # a command may need so long from the announcement to the change
ACCOUNTS_AT_ONCE: Final = 100
RECORDS_AT_ONCE: Final = 100  # of one account


class Announced(NamedTuple):
    """An account whose outbox may have records, and the last announcement in µs."""

    account: str
    at_us: int


class Outbox:
    """The outboxes of all accounts. Each method raises StoreUnavailable."""

    def __init__(self, wire: Connection, prefix: str, own_id: str) -> None:
        self._wire = wire
        self._prefix = prefix
        self._id = own_id

    @property
    def up(self) -> bool:
        """Whether Redis is available."""
        return self._wire.up

    async def take(self, start_us: int = 0) -> list[Announced] | None:
        """Take or renew the lease; the accounts that were announced since `start_us`, in order.

        None: another sidecar has the lease.
        """
        names = keys.outbox_lease(self._prefix), keys.outboxes(self._prefix)
        status, _, *rest = await run(
            self._wire, "outbox/take", names, self._id, LEASE_MS, start_us, ACCOUNTS_AT_ONCE
        )
        if status != 1:
            return None
        accounts = [one.decode() if isinstance(one, bytes) else str(one) for one in rest[::2]]
        return [Announced(*one) for one in zip(accounts, map(int, rest[1::2]), strict=True)]

    async def read(self, account: str) -> list[bytes]:
        """The oldest records of an account."""
        name = keys.outbox(self._prefix, account)
        command = encode("LRANGE", name, 0, RECORDS_AT_ONCE - 1)
        reply: Any = await self._wire.execute(command, None, slot_of(name))
        if not isinstance(reply, list):
            raise StoreUnavailable(f"Redis refused to read {name}: {reply!r}")
        return reply

    async def remove(self, account: str, records: Sequence[bytes]) -> None:
        """Remove records. Repeated, it changes nothing."""
        await run(self._wire, "outbox/remove", (keys.outbox(self._prefix, account),), *records)

    async def retire(self, account: str) -> None:
        """Forget an account whose outbox is empty, unless a change may follow."""
        names = (keys.outboxes(self._prefix),)
        await run(self._wire, "outbox/retire", names, account, GRACE_US)
