"""Limits that this sidecar counts alone: its share of each, from what Redis said last.

The reference arithmetic on shares in the place of limits. Nothing that was counted is forgotten
while it is needed: an account for which there is no room is one of which nobody can tell.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from sidecar.core import account as accounts
from sidecar.core import shares
from sidecar.core.account import NEW, AccountState
from sidecar.core.answers import Answer, Hold
from sidecar.core.limits import drained
from sidecar.core.model import (
    MICRO,
    Account,
    Claim,
    ConcurrencyLimit,
    Limit,
    QuotaLimit,
    RateLimit,
    TeamShare,
    WhenDown,
)
from sidecar.core.periods import Window
from sidecar.core.shares import NEVER_SEEN, Own, Snapshot
from sidecar.core.survey import Ask
from sidecar.errors import StoreUnavailable
from sidecar.stores import keys
from sidecar.stores.settler import OpenReservation

MOST_ACCOUNTS: Final = 10_000
MOST_LIMITS: Final = 50_000  # of all accounts; those per key count for each key
FOREVER_US: Final = 1 << 60
FULL: Final = "Redis is gone, and as many accounts as there is room for are counted without it"

Snapshots = Mapping[str, Snapshot]


class LocalShare(NamedTuple):
    """This sidecar's part of one limit of an account, until the quota's period ends."""

    limit: Limit
    part: Limit
    until_us: int
    key_id: str


@dataclass(slots=True)
class _Account:
    account: Account
    looks: Snapshots
    shares: dict[str, LocalShare] = field(default_factory=dict)
    ledger: AccountState = NEW


class LocalLimits:
    """`ways`: how many sidecars share what is left. `look` tells what Redis said last of an
    account; `window` the period of a quota; `held` the account's calls that hold slots in Redis,
    which are this sidecar's to give when they end."""

    def __init__(
        self,
        now_us: Callable[[], int],
        *,
        look: Callable[[str], Snapshots],
        window: Callable[[QuotaLimit, Account, int], Window],
        held: Callable[[str], Iterable[OpenReservation]] = lambda _: (),
        accounts: int = MOST_ACCOUNTS,
    ) -> None:
        self.ways = 1
        self._now_us = now_us
        self._look = look
        self._window = window
        self._held = held
        self._most = accounts
        self._accounts: dict[str, _Account] = {}
        self._limits = 0

    def __contains__(self, account_id: str) -> bool:
        return account_id in self._accounts

    def __len__(self) -> int:
        return len(self._accounts)

    def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        when_down: WhenDown,
    ) -> Answer:
        """Grant all claims or none, out of the shares; the answer tells of the whole limits.

        Raises StoreUnavailable when there is no room for one more account or limit.
        """
        now_us = self._now_us()
        own = self._own(account)
        asks = [self._ask(own, account, key_id, claim, now_us, when_down) for claim in claims]
        if hold is not None:
            hold = hold._replace(lease_us=FOREVER_US)  # it ends with this process
        answer, own.ledger = accounts.reserve(own.ledger, asks, now_us, hold)
        return _as_a_whole(answer, claims, asks, own.looks)

    def settle(self, account: Account, key_id: str, claims: Sequence[Claim], hold_id: str) -> None:
        """Correct what an open call has used of the shares, and give its slots back."""
        own, now_us = self._accounts.get(account.id), self._now_us()
        if own is not None and hold_id in own.ledger.opened:
            asks = [self._ask(own, account, key_id, claim, now_us, "local") for claim in claims]
            _, own.ledger = accounts.settle(own.ledger, hold_id, asks, now_us)

    def count_before(
        self, account: Account, key_id: str, claims: Iterable[Claim], at_us: int, looks: Snapshots
    ) -> None:
        """What a former process of this sidecar let pass, and what it knew."""
        own = self._own(account)
        newer = {
            name: look
            for name, look in looks.items()
            if look.now_us >= own.looks.get(name, NEVER_SEEN).now_us
        }
        own.looks = {**own.looks, **newer}
        for claim in claims:
            forced = replace(claim, forced=True)
            ask = self._ask(own, account, key_id, forced, at_us, "local")
            _, own.ledger = accounts.reserve(own.ledger, [ask], at_us)

    def looks(self, account_id: str) -> Snapshots:
        """What is known of an account's limits, by their names."""
        own = self._accounts.get(account_id)
        return self._look(account_id) if own is None else own.looks

    def levels(self, account_id: str) -> list[tuple[Account, str, Claim]]:
        """What is in the account's buckets, in whole units rounded up, and the key of each."""
        own, now_us = self._accounts[account_id], self._now_us()
        found = []
        for name, (limit, part, _, key_id) in own.shares.items():
            if isinstance(limit, RateLimit) and isinstance(part, RateLimit):
                used = drained(part, own.ledger.states[name], now_us).used
                if used:
                    claim = Claim(limit, -(-used // MICRO), forced=True)
                    found.append((own.account, key_id, claim))
        return found

    @property
    def accounts(self) -> list[str]:
        """Ids of the accounts that are counted here."""
        return list(self._accounts)

    def forget(self, account_id: str) -> None:
        """Redis counts this account again."""
        own = self._accounts.pop(account_id, None)
        if own is not None:
            self._limits -= len(own.shares)

    def _own(self, account: Account) -> _Account:
        own = self._accounts.get(account.id)
        if own is None:
            if len(self._accounts) >= self._most:
                raise StoreUnavailable(FULL)
            own = self._accounts[account.id] = _Account(account, self._look(account.id))
            for call in self._held(account.id):
                self._hold_slots(call)
        return own

    def _hold_slots(self, call: OpenReservation) -> None:
        taken = [
            replace(claim, forced=True)
            for claim in call.claims
            if isinstance(claim.limit, ConcurrencyLimit)
        ]
        if taken:
            hold = Hold(call.hold_id, FOREVER_US)
            self.reserve(call.account, call.key_id, taken, hold, "local")

    def _ask(
        self,
        own: _Account,
        account: Account,
        key_id: str,
        claim: Claim,
        now_us: int,
        when_down: WhenDown,
    ) -> Ask:
        name = keys.limit_field(claim.limit, key_id)
        share = own.shares.get(name)
        if share is None or share.limit is not claim.limit or now_us >= share.until_us:
            share = self._share(own, name, account, key_id, claim, now_us, when_down)
        window = None
        if isinstance(claim.limit, QuotaLimit):
            window = self._window(claim.limit, account, now_us)
        free = claim.forced or when_down == "allow"
        others = keys.other_fields(claim.limit)
        return Ask(name, Claim(share.part, claim.cost, free), window, others)

    def _share(
        self,
        own: _Account,
        name: str,
        account: Account,
        key_id: str,
        claim: Claim,
        now_us: int,
        when_down: WhenDown,
    ) -> LocalShare:
        limit, look = claim.limit, own.looks.get(name, NEVER_SEEN)
        # What keeps critical calls from being abused is not divided: that would refuse some.
        ways = 1 if when_down == "critical" and not claim.forced else self.ways
        if isinstance(limit, TeamShare):
            others = [own.looks.get(one, NEVER_SEEN) for one in keys.other_fields(limit)]
            part: Limit = shares.team_share_of(limit, look, others, ways, now_us)
        else:
            part = shares.share_of(limit, look, ways, now_us)
        until = FOREVER_US
        if isinstance(limit, QuotaLimit):
            window = self._window(limit, account, now_us)
            until = window.end if now_us < window.end else window.after
        if name not in own.shares:
            if self._limits >= MOST_LIMITS:
                raise StoreUnavailable(FULL)
            self._limits += 1
            if isinstance(limit, RateLimit) and isinstance(part, RateLimit):
                state = shares.filled(limit, part, look, ways, now_us)
                own.ledger = replace(own.ledger, states={**own.ledger.states, name: state})
        own.shares[name] = share = LocalShare(limit, part, until, key_id)
        return share


def _as_a_whole(
    answer: Answer, claims: Sequence[Claim], asks: Sequence[Ask], looks: Snapshots
) -> Answer:
    whole = [
        shares.as_a_whole(
            Own(claim, ask.claim.limit, used), looks.get(ask.field, NEVER_SEEN), answer.now_us
        )
        for claim, ask, used in zip(claims, asks, answer.used, strict=True)
    ]
    used, besides = tuple(one[0] for one in whole), tuple(one[1] for one in whole)
    return Answer(answer.granted, answer.now_us, used, answer.ends_us, besides, alone=True)
