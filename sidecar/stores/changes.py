"""Transactions of the commands that change API keys, accounts and grants.

A change has its entry in the stream that sidecars follow, and its record in the account's outbox,
of which a sidecar makes an event (`outbox.py`).

In a cluster, the Redis keys of a change are in several slots, so each step has a transaction of its
own. The record is in the slot of the account, and in the transaction that changes the account.
"""

from itertools import chain
from typing import Any, Final

from sidecar.core.events.changes import Change, record, record_body
from sidecar.core.kinds import MICRO
from sidecar.errors import SidecarError
from sidecar.stores import keys

TTL_S: Final = 3650 * 86_400  # I9: every Redis key has a TTL
CHANGES_TTL_S: Final = 7 * 86_400
MOST_CHANGES: Final = 10_000
MOST_RECORDS: Final = 10_000  # of one account that no sidecar has recorded

Step = tuple[tuple[str | int, ...], ...]  # commands on one Redis key or slot


class Changes:
    """Builds and commits changes. `client`: of redis-py, with texts."""

    def __init__(self, client: Any, prefix: str, *, is_cluster: bool) -> None:
        self._redis = client
        self._prefix = prefix
        self._is_cluster = is_cluster

    def now_us(self) -> int:
        """Redis time, in µs since the epoch."""
        seconds, micros = self._redis.time()
        return int(seconds) * MICRO + int(micros)

    def list_account(self, account: str) -> Step:
        """The step that lists the account."""
        name = keys.accounts(self._prefix)
        return ("SADD", name, account), ("EXPIRE", name, TTL_S)

    def notify(self, kind: str, name: str) -> Step:
        """The step that notifies sidecars of a changed "digest" or "account"."""
        stream = keys.changes(self._prefix)
        return (
            ("XADD", stream, "MAXLEN", "~", MOST_CHANGES, "*", kind, name),
            ("EXPIRE", stream, CHANGES_TTL_S),
        )

    def announce(self, account: str, at_us: int) -> Step:
        """The step before a change: the account's outbox may have records soon.

        Raises SidecarError if too many records of the account wait.
        """
        if self._redis.llen(keys.outbox(self._prefix, account)) >= MOST_RECORDS:
            raise SidecarError(
                f"account {account} has {MOST_RECORDS:,} changes without an event; start a sidecar "
                "with this Redis, which records them"
            )
        name = keys.outboxes(self._prefix)
        return ("ZADD", name, at_us, account), ("EXPIRE", name, TTL_S)

    def records(self, account: str, at_us: int, *changes: tuple[str, Change]) -> Step:
        """The commands that record changes, each with the id of its event. No step of their own."""
        if not changes:
            return ()
        name = keys.outbox(self._prefix, account)
        texts = [record(at_us, record_body(*change)) for change in changes]
        return ("RPUSH", name, *texts), ("EXPIRE", name, TTL_S)

    def commit(self, *steps: Step) -> None:
        """Make the changes: one transaction, or in a cluster one per step."""
        for commands in steps if self._is_cluster else (tuple(chain(*steps)),):
            if not commands:
                continue
            with self._redis.pipeline(transaction=True) as batch:
                for command in commands:
                    batch.execute_command(*command)
                batch.execute()
