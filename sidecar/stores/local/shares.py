"""Limits in local mode: this sidecar's share of each, from their last known state in Redis.

This is the reference arithmetic (`core.account`) on shares instead of limits. It forgets no
account during an outage. Beyond the bound, requests of further accounts are not decided here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from sidecar.core import shares
from sidecar.core.answers import Answer, Hold
from sidecar.core.counting import account as accounts
from sidecar.core.counting.counters import State
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.limits import drained
from sidecar.core.counting.reservations import NEW, AccountState
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.kinds import MICRO, SLOTS, Limit, PeriodLimit, RateLimit, TeamShare
from sidecar.core.model import Account, Claim, WhenDown
from sidecar.core.periods import NO_PERIOD, Window
from sidecar.core.shares import NEVER_SEEN, LocalClaim, Snapshot
from sidecar.errors import StoreUnavailable
from sidecar.stores import keys
from sidecar.stores.settler import OpenReservation

MOST_ACCOUNTS: Final = 10_000
MOST_LIMITS: Final = 50_000  # of all accounts; those per key count for each key
FOREVER_US: Final = 1 << 60
FULL: Final = "Redis is unavailable, and local mode has no room for another account"

SnapshotsByField = Mapping[str, Snapshot]


class LocalShare(NamedTuple):
    """This sidecar's part of one limit of an account, until the end of the quota's period."""

    limit: Limit
    part: Limit
    until_us: int
    key_id: str


@dataclass(slots=True)
class _Account:
    account: Account
    snapshots: SnapshotsByField
    shares: dict[str, LocalShare] = field(default_factory=dict)
    state: AccountState = NEW


class LocalLimits:
    """This sidecar's local shares: one of `sidecars` equal parts of what is left.

    `snapshots_of`: the last known state of an account's limits. `window`: the period of a quota.
    `open_in_redis`: the account's open reservations in Redis, whose slots this sidecar releases.
    """

    def __init__(
        self,
        now_us: Callable[[], int],
        *,
        snapshots_of: Callable[[str], SnapshotsByField],
        window: Callable[[PeriodLimit, Account, int], Window],
        open_in_redis: Callable[[str], Iterable[OpenReservation]] = lambda _: (),
        accounts: int = MOST_ACCOUNTS,
    ) -> None:
        self.sidecars = 1
        self._now_us = now_us
        self._snapshots_of = snapshots_of
        self._window = window
        self._open_in_redis = open_in_redis
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
        """Grant all claims or none, from the shares. The answer describes the whole limits.

        Raises StoreUnavailable without room for another account or limit.
        """
        now_us = self._now_us()
        own = self._own(account)
        asks = [self._ask(own, account, key_id, claim, now_us, when_down) for claim in claims]
        if hold is not None:
            hold = hold._replace(lease_us=FOREVER_US)  # it ends with this process
        answer, own.state = accounts.reserve(own.state, asks, now_us, hold)
        return _whole_limits(answer, claims, asks, own.snapshots)

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        *,
        billed: bool = True,
    ) -> tuple[int, ...]:
        """Correct what a request in flight has used of the shares, and release its slots.

        Returns the overage that its event reports, of each claim; () if it is not known here.
        """
        own, now_us = self._accounts.get(account.id), self._now_us()
        if own is not None and hold_id in own.state.opened:
            asks = [self._ask(own, account, key_id, claim, now_us, "local") for claim in claims]
            answer, own.state = accounts.settle(own.state, hold_id, asks, now_us, billed=billed)
            return tuple([detail.overage for detail in answer.details])
        return ()

    def count_past(
        self,
        account: Account,
        key_id: str,
        claims: Iterable[Claim],
        at_us: int,
        snapshots: SnapshotsByField,
    ) -> None:
        """Count requests in an abandoned journal, and use its snapshots if they are newer."""
        own = self._own(account)
        newer = {
            name: snapshot
            for name, snapshot in snapshots.items()
            if snapshot.now_us >= own.snapshots.get(name, NEVER_SEEN).now_us
        }
        own.snapshots = {**own.snapshots, **newer}
        for claim in claims:
            forced = replace(claim, forced=True)
            ask = self._ask(own, account, key_id, forced, at_us, "local")
            _, own.state = accounts.reserve(own.state, [ask], at_us)

    def snapshots(self, account_id: str) -> SnapshotsByField:
        """The last known state of an account's limits, by their fields."""
        own = self._accounts.get(account_id)
        return self._snapshots_of(account_id) if own is None else own.snapshots

    def levels(self, account_id: str) -> list[tuple[Account, str, Claim]]:
        """Used units of the account's buckets, rounded up, each with its key."""
        own, now_us = self._accounts[account_id], self._now_us()
        levels = []
        for name, (limit, part, _, key_id) in own.shares.items():
            if isinstance(limit, RateLimit) and isinstance(part, RateLimit):
                used = drained(part, own.state.states[name], now_us).used
                if used:
                    claim = Claim(limit, -(-used // MICRO), forced=True)
                    levels.append((own.account, key_id, claim))
        return levels

    @property
    def accounts(self) -> list[str]:
        """Ids of the accounts on local shares."""
        return list(self._accounts)

    def forget(self, account_id: str) -> None:
        """Drop an account, as Redis enforces it again."""
        own = self._accounts.pop(account_id, None)
        if own is not None:
            self._limits -= len(own.shares)

    def _own(self, account: Account) -> _Account:
        own = self._accounts.get(account.id)
        if own is None:
            if len(self._accounts) >= self._most:
                raise StoreUnavailable(FULL)
            own = self._accounts[account.id] = _Account(account, self._snapshots_of(account.id))
            for reservation in self._open_in_redis(account.id):
                self._take_slots(reservation)
        return own

    def _take_slots(self, reservation: OpenReservation) -> None:
        slots = [
            replace(claim, forced=True) for claim in reservation.claims if claim.limit.kind is SLOTS
        ]
        if slots:
            hold = Hold(reservation.hold_id, FOREVER_US)
            self.reserve(reservation.account, reservation.key_id, slots, hold, "local")

    def _ask(
        self,
        own: _Account,
        account: Account,
        key_id: str,
        claim: Claim,
        now_us: int,
        when_down: WhenDown,
    ) -> BoundClaim:
        name = keys.limit_field(claim.limit, key_id)
        share = own.shares.get(name)
        if share is None or share.limit is not claim.limit or now_us >= share.until_us:
            share = self._share(own, name, account, key_id, claim, now_us, when_down)
        window = NO_PERIOD
        if isinstance(claim.limit, PeriodLimit):
            window = self._window(claim.limit, account, now_us)
        forced = claim.forced or when_down == "allow"
        others = keys.other_fields(claim.limit)
        return BoundClaim(name, Claim(share.part, claim.cost, forced), window, others)

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
        limit, snapshot = claim.limit, own.snapshots.get(name, NEVER_SEEN)
        # I3: the limits against abuse of critical routes are not divided.
        sidecars = 1 if when_down == "critical" and not claim.forced else self.sidecars
        if isinstance(limit, TeamShare):
            others = [own.snapshots.get(one, NEVER_SEEN) for one in keys.other_fields(limit)]
            part: Limit = shares.local_team_share(limit, snapshot, others, sidecars, now_us)
        else:
            part = shares.local_share(limit, snapshot, sidecars, now_us)
        until, state = FOREVER_US, None
        if isinstance(limit, PeriodLimit):
            window = self._window(limit, account, now_us)
            until = window.end if now_us < window.end else window.after
            known = shares.snapshot_for(limit, snapshot, now_us)
            if known.end_us:  # which is not the window's end if the calendar has changed
                until = known.end_us
                state = State(0, now_us, end_us=until, counts=counts_of(limit))
        elif isinstance(limit, RateLimit) and isinstance(part, RateLimit):
            state = shares.initial_bucket(limit, part, snapshot, sidecars, now_us)
        if name not in own.shares:
            if self._limits >= MOST_LIMITS:
                raise StoreUnavailable(FULL)
            self._limits += 1
            if state is not None:
                own.state = replace(own.state, states={**own.state.states, name: state})
        own.shares[name] = share = LocalShare(limit, part, until, key_id)
        return share


def _whole_limits(
    answer: Answer, claims: Sequence[Claim], asks: Sequence[BoundClaim], snapshots: SnapshotsByField
) -> Answer:
    whole = []
    for claim, ask, share_used in zip(claims, asks, answer.used, strict=True):
        local = LocalClaim(claim, ask.claim.limit, share_used)
        snapshot = snapshots.get(ask.field, NEVER_SEEN)
        whole.append(shares.whole_limit(local, snapshot, answer.now_us))
    used = tuple([one[0] for one in whole])
    details = tuple(
        [
            detail._replace(overage=share.overage)
            for (_, detail), share in zip(whole, answer.details, strict=True)
        ]
    )
    return Answer(answer.granted, answer.now_us, used, answer.ends_us, details, local=True)
