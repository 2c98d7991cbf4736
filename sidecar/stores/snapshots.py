"""What Redis said last of each account's limits: all there is to go by when it is gone.

Nothing is done for this while a call is on its way: answers that are kept anyway are read when
they are needed, or when the place where they are kept is cleared.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from sidecar.core.answers import Answer
from sidecar.core.model import Claim, ConcurrencyLimit
from sidecar.core.shares import Snapshot, looks
from sidecar.stores import keys

MOST_ACCOUNTS: Final = 10_000
MOST_LIMITS: Final = 200  # of one account; those per key count for each key


class Snapshots:
    """The account that was noted longest ago is forgotten first."""

    def __init__(self, accounts: int = MOST_ACCOUNTS) -> None:
        self._most = accounts
        self._accounts: OrderedDict[str, dict[str, Snapshot]] = OrderedDict()

    def note(self, account_id: str, key_id: str, claims: Sequence[Claim], answer: Answer) -> None:
        """Keep what is newer than what was known."""
        known = self._accounts.setdefault(account_id, {})
        self._accounts.move_to_end(account_id)
        if len(self._accounts) > self._most:
            self._accounts.popitem(last=False)
        for claim, look in zip(claims, looks(claims, answer), strict=True):
            name = keys.limit_field(claim.limit, key_id)
            before = known.get(name)
            if isinstance(claim.limit, ConcurrencyLimit) or (
                before is not None and before.now_us > look.now_us
            ):
                continue
            known[name] = look
            if len(known) > MOST_LIMITS:
                del known[next(iter(known))]

    def of(self, account_id: str) -> Mapping[str, Snapshot]:
        """Snapshots by the names of limits in the account's state."""
        return dict(self._accounts.get(account_id, {}))
