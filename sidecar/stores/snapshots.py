"""The last known state of each account's limits in Redis, for local shares.

This costs a request nothing: the store caches answers anyway, and notes them here when they are
needed or dropped.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.kinds import SLOTS
from sidecar.core.model import Claim
from sidecar.core.shares import Snapshot, snapshots_of
from sidecar.stores import keys

MOST_ACCOUNTS: Final = 10_000
MOST_LIMITS: Final = 200  # of one account; a limit per key counts for each key


class Snapshots:
    """Snapshots by account; the account that was noted longest ago is dropped first."""

    def __init__(self, accounts: int = MOST_ACCOUNTS) -> None:
        self._most = accounts
        self._accounts: OrderedDict[str, dict[str, Snapshot]] = OrderedDict()

    def note(self, account_id: str, key_id: str, claims: Sequence[Claim], answer: Answer) -> None:
        """Keep the newest state of each limit, except concurrency."""
        snapshots = self._accounts.setdefault(account_id, {})
        self._accounts.move_to_end(account_id)
        if len(self._accounts) > self._most:
            self._accounts.popitem(last=False)
        for claim, snapshot in zip(claims, snapshots_of(claims, answer), strict=True):
            name = keys.limit_field(claim.limit, key_id)
            before = snapshots.get(name)
            if claim.limit.kind is SLOTS or (
                before is not None and before.now_us > snapshot.now_us
            ):
                continue
            snapshots[name] = snapshot
            if len(snapshots) > MOST_LIMITS:
                del snapshots[next(iter(snapshots))]

    def of(self, account_id: str) -> Mapping[str, Snapshot]:
        """Snapshots by the limits' fields in the account's state."""
        return dict(self._accounts.get(account_id, {}))
