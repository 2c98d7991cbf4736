"""Limits in the memory of one process, for tests and embedding.

This is the pure reference arithmetic (`core.account`) with a memory. Processes share nothing, and
the state ends with the process.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.core.answers import Answer, Hold
from sidecar.core.counting import account as accounts
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.reservations import NEW, AccountState
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.kinds import PeriodLimit
from sidecar.core.model import Account, Claim, WhenDown
from sidecar.core.periods import NO_PERIOD, window_at
from sidecar.stores import keys

MOST_ACCOUNTS: Final = 10_000


class MemoryLimitStore:
    """Implements `ports.LimitStore`; never raises StoreUnavailable.

    `now_us` returns the time in µs. Beyond `accounts` accounts, the one with the oldest change is
    forgotten and starts from zero. Limits per key have a state for each key.
    """

    def __init__(self, now_us: Callable[[], int], *, accounts: int = MOST_ACCOUNTS) -> None:
        self._now_us = now_us
        self._most = accounts
        self._accounts: OrderedDict[str, AccountState] = OrderedDict()

    @property
    def up(self) -> bool:
        """Always True."""
        return True

    async def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        hold: Hold | None = None,
        once: bool = False,  # noqa: ARG002 - the port's
        when_down: WhenDown = "deny",  # noqa: ARG002
    ) -> Answer:
        """Grant all claims or none; see `ports.LimitStore`."""
        now_us = self._now_us()
        state = self._accounts.get(account.id, NEW)
        asks = bind_claims(account, key_id, claims, now_us)
        answer, after = accounts.reserve(state, asks, now_us, hold)
        if after is not state:
            self._keep(account, after)
        return answer

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What `reserve` would answer, changing nothing. `used` does not include the cost."""
        now_us = self._now_us()
        state = self._accounts.get(account.id, NEW)
        return accounts.peek(state, bind_claims(account, key_id, claims, now_us), now_us)

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: Callable[[Answer | None], None] | None = None,
        *,
        billed: bool = True,
    ) -> None:
        """Correct an open reservation and close it; see `ports.LimitStore`."""
        now_us = self._now_us()
        state = self._accounts.get(account.id, NEW)
        asks = bind_claims(account, key_id, claims, now_us)
        answer, after = accounts.settle(state, hold_id, asks, now_us, billed=billed)
        if answer.granted:
            self._keep(account, after)
        if on_settled is not None:
            on_settled(answer)

    def grant(self, account: Account, given: Grant) -> bool:
        """Add extra units, once per id; False if the grant existed before."""
        state = self._accounts.get(account.id, NEW)
        new, after = accounts.grant(state, given, self._now_us())
        self._keep(account, after)
        return new

    def _keep(self, account: Account, after: AccountState) -> None:
        self._accounts[account.id] = after
        self._accounts.move_to_end(account.id)
        if len(self._accounts) > self._most:
            self._accounts.popitem(last=False)


def bind_claims(
    account: Account, key_id: str, claims: Sequence[Claim], now_us: int
) -> list[BoundClaim]:
    """The claims with their fields, and with their quotas' windows at `now_us`."""
    return [
        BoundClaim(
            keys.limit_field(claim.limit, key_id),
            claim,
            window_at(claim.limit, account, now_us)
            if isinstance(claim.limit, PeriodLimit)
            else NO_PERIOD,
            keys.other_fields(claim.limit),
        )
        for claim in claims
    ]
