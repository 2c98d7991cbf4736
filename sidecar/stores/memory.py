"""Limits in this process's memory: the promise of `RedisLimitStore` without Redis.

For tests, for embedding, and as the base of a mode in which one sidecar counts alone. It is the
pure reference with a memory: nothing is shared between processes and nothing survives one.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from sidecar.core import limits
from sidecar.core.limits import EMPTY, State
from sidecar.core.model import Account, Answer, Claim, QuotaLimit
from sidecar.core.periods import bounds

ACCOUNTS_KEPT: Final = 10_000

# Rates and quotas apart, as in Redis; the key's id for limits per key.
Field = tuple[bool, str, str | None]


class MemoryLimitStore:
    """Keeps `ports.LimitStore`; never raises StoreUnavailable.

    `now_us` tells the time in µs. At most `accounts` accounts are kept: beyond that, the one
    whose last grant is the oldest is forgotten, and starts anew when it calls again. What is
    kept of an account grows with its keys, for limits per key.
    """

    def __init__(self, now_us: Callable[[], int], *, accounts: int = ACCOUNTS_KEPT) -> None:
        self._now_us = now_us
        self._most = accounts
        self._accounts: OrderedDict[str, dict[Field, State]] = OrderedDict()

    @property
    def up(self) -> bool:
        """Always True: there is nothing that could be gone."""
        return True

    async def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        once: bool = False,  # noqa: ARG002 - the port's
        blind: bool = False,  # noqa: ARG002
    ) -> Answer:
        """Grant all claims or none; see `ports.LimitStore`."""
        answer, after = self._decide(account, key_id, claims, self._now_us())
        if answer.granted:
            known = self._accounts.setdefault(account.id, {})
            known.update(zip(_fields(key_id, claims), after, strict=True))
            self._accounts.move_to_end(account.id)
            if len(self._accounts) > self._most:
                self._accounts.popitem(last=False)
        return answer

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What `reserve` would answer, changing nothing; `used` is without the cost."""
        now_us = self._now_us()
        answer, _ = self._decide(account, key_id, claims, now_us)
        free = [replace(claim, cost=0) for claim in claims]
        as_it_stands, _ = self._decide(account, key_id, free, now_us)
        return as_it_stands._replace(granted=answer.granted)

    def _decide(
        self, account: Account, key_id: str, claims: Sequence[Claim], now_us: int
    ) -> tuple[Answer, list[State]]:
        known = self._accounts.get(account.id, {})
        states = [known.get(field, EMPTY) for field in _fields(key_id, claims)]
        windows = [
            bounds(claim.limit.period, account.timezone, account.anchor, now_us)
            if isinstance(claim.limit, QuotaLimit)
            else None
            for claim in claims
        ]
        return limits.reserve(states, claims, windows, now_us)


def _fields(key_id: str, claims: Sequence[Claim]) -> list[Field]:
    return [
        (isinstance(limit, QuotaLimit), limit.id, key_id if limit.per == "key" else None)
        for limit in (claim.limit for claim in claims)
    ]
