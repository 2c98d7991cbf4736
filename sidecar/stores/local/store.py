"""Limits in Redis, and what becomes of calls while Redis cannot be asked.

Redis decides as long as it answers. When it does not, this sidecar counts alone: out of its share
of what was left, written into a journal, charged when Redis is back. `keeper.py` knows when.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sidecar.core.answers import Answer, Hold
from sidecar.core.claims import at_no_cost
from sidecar.core.model import Account, Claim, ConcurrencyLimit, QuotaLimit, WhenDown
from sidecar.core.shares import NEVER_SEEN, Snapshot
from sidecar.errors import StoreUnavailable
from sidecar.files import Files
from sidecar.stores import keys
from sidecar.stores.commands import period_start
from sidecar.stores.connection.connect import Connection
from sidecar.stores.local.abandoned_journals import AbandonedJournals
from sidecar.stores.local.charger import Charger
from sidecar.stores.local.clock import StoreClock
from sidecar.stores.local.heartbeat import Heartbeat
from sidecar.stores.local.journal import Journal
from sidecar.stores.local.mode import ModeKeeper
from sidecar.stores.local.shares import LocalLimits
from sidecar.stores.redis import RedisLimitStore
from sidecar.stores.settler import Told


class _Held(NamedTuple):
    """A call that was admitted alone and goes on."""

    account: Account
    key_id: str
    claims: Sequence[Claim]
    hold: Hold


class FallbackStore:
    """Keeps `ports.LimitStore`. `keeper.run` has to run beside it; `start` comes first, `close`
    last. `admitted` counts the calls that were admitted without Redis, `uncounted` those that
    pass all the same when there is no room to count them."""

    def __init__(
        self, wire: Connection, journal: Journal, disk: Files, *, own_id: str, prefix: str = "qs"
    ) -> None:
        self.admitted = self.uncounted = 0
        self.redis = redis = RedisLimitStore(wire, prefix)
        self._wire = wire
        self._journal = journal
        self._clock = StoreClock()
        self._alone = LocalLimits(
            self._clock.now_us,
            look=redis.looks,
            window=redis.commands.window,
            held=lambda account_id: self.keeper.held_in_redis(account_id),
        )
        self._charger = Charger(wire, redis.commands, prefix, self._nothing_owed)
        self.keeper = ModeKeeper(
            redis,
            wire,
            self._alone,
            heart=Heartbeat(wire, prefix, own_id, self._clock),
            charger=self._charger,
            inherited=AbandonedJournals(journal.directory, wire, redis.commands, prefix, disk),
            now_us=self._clock.now_us,
            released=self._released,
        )
        self._held: dict[str, _Held] = {}
        self._in_redis: set[str] = set()  # of those, calls whose slots Redis has been told of

    def now_us(self) -> int:
        """The time that all sidecars share, as well as it is known, in µs since the epoch."""
        return self._clock.now_us()

    @property
    def up(self) -> bool:
        """Whether Redis answers."""
        return self._wire.up

    @property
    def entries(self) -> int:
        """Calls that Redis has yet to be told of."""
        return self._charger.owed + self.keeper.inherited.waiting

    @property
    def lost(self) -> int:
        """Calls that the disk did not take, which a crash loses, or that had no room at all."""
        return self._journal.unwritten + self._charger.lost + self.uncounted

    async def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        hold: Hold | None = None,
        once: bool = False,
        when_down: WhenDown = "deny",
    ) -> Answer:
        """Grant all claims or none; see `ports.LimitStore`. Raises StoreUnavailable."""
        if self.keeper.absence is None or self._takes_no_share(account, key_id, when_down):
            try:
                return await self.redis.reserve(account, key_id, claims, hold=hold, once=once)
            except StoreUnavailable as error:
                self.keeper.lose(str(error))
                if when_down == "deny":
                    raise
                answer = self._share(account, key_id, claims, hold, when_down)
        elif when_down == "deny":
            raise StoreUnavailable("Redis is gone, and the plan says not to guess")
        else:
            answer = self._share(account, key_id, claims, hold, when_down)
            if answer.granted and self.keeper.asks_both:
                try:
                    real = await self.redis.reserve(account, key_id, claims, hold=hold, once=once)
                except StoreUnavailable as error:
                    self.keeper.lose(str(error))
                else:
                    return self._both(account, key_id, claims, hold, real)
        if answer.granted:
            self._admit(account, key_id, claims, hold)
        return answer

    def _takes_no_share(self, account: Account, key_id: str, when_down: WhenDown) -> bool:
        """Calls that Redis is asked for at once when it is back, critical ones among them. What
        their key owes goes ahead."""
        if not self._wire.reachable:
            return False
        if when_down == "local" and (self.keeper.away or account.id in self._alone):
            return False
        self._charger.hurry(account.id, key_id)
        return True

    def _share(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        when_down: WhenDown,
    ) -> Answer:
        try:
            return self._alone.reserve(account, key_id, claims, hold, when_down)
        except StoreUnavailable:
            if when_down in ("allow", "critical"):
                self.uncounted += 1
            raise

    def _both(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        real: Answer,
    ) -> Answer:
        """The share allowed it, and this is what Redis says: what neither refuses may pass."""
        if hold is not None and not real.granted:
            self._alone.settle(account, key_id, at_no_cost(claims), hold.id)
        return real

    def _admit(
        self, account: Account, key_id: str, claims: Sequence[Claim], hold: Hold | None
    ) -> None:
        """A call passes that Redis knows nothing of."""
        self.admitted += 1
        if hold is None:
            if any(claim.cost for claim in claims):
                self._owe(account, key_id, claims, None)
        else:
            self._held[hold.id] = _Held(account, key_id, claims, hold)
            if hold.orphans == "charge" and _quotas(claims):
                self._write(account, key_id, claims, hold.id, is_open=True)

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What Redis would answer now. Raises StoreUnavailable."""
        return await self.redis.peek(account, key_id, claims)

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        told: Told | None = None,
    ) -> None:
        """Correct an open reservation and close it; see `ports.LimitStore`."""
        if self.keeper.absence is not None:
            self._alone.settle(account, key_id, claims, hold_id)
        if self._held.pop(hold_id, None) is None:
            self.redis.settle(account, key_id, claims, hold_id, told)
            return
        self._owe(account, key_id, claims, hold_id)
        if hold_id in self._in_redis:
            self._in_redis.discard(hold_id)
            self.redis.settle(account, key_id, _slots(claims), hold_id)

    def forget(self) -> None:
        """A new plan file is live."""
        self.redis.forget()

    async def start(self) -> None:
        """Take over what former processes left."""
        await self.keeper.take_over()

    async def close(self) -> None:
        """Charge what can be charged in a bounded time, and leave the rest to the journal."""
        await self.keeper.close()
        if not self._charger.owed:
            self._journal.discard()
        await self._journal.close()

    # What is owed

    def _owe(
        self, account: Account, key_id: str, claims: Sequence[Claim], hold_id: str | None
    ) -> None:
        """A call is over; this is what it cost."""
        quotas = _quotas(claims)
        if not quotas:
            return
        seq, now_us = self._write(account, key_id, claims, hold_id), self._clock.now_us()
        dated = [
            (claim, period_start(self.redis.commands.window(quota, account, now_us), now_us))
            for claim, quota in quotas
        ]
        self._charger.owe(account, key_id, self._journal.id, seq, dated)

    def _write(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str | None,
        *,
        is_open: bool = False,
    ) -> int:
        def look(quota: QuotaLimit) -> Snapshot:
            seen = self._alone.looks(account.id)
            return seen.get(keys.limit_field(quota, key_id), NEVER_SEEN)

        return self._journal.add(
            account, key_id, claims, self._clock.now_us(),
            sidecars=self._alone.ways, look=look, hold_id=hold_id, is_open=is_open,
        )  # fmt: skip

    def _nothing_owed(self) -> None:
        if not self._held:
            self._journal.discard()

    def _released(self, accounts: Collection[str]) -> None:
        """Redis counts these accounts again: it has to know of slots that are taken."""
        for hold_id, held in self._held.items():
            slots = _slots(held.claims)
            if slots and held.account.id in accounts and hold_id not in self._in_redis:
                self._in_redis.add(hold_id)
                self.redis.count(held.account, held.key_id, slots, held.hold)


def _quotas(claims: Sequence[Claim]) -> list[tuple[Claim, QuotaLimit]]:
    return [(one, one.limit) for one in claims if isinstance(one.limit, QuotaLimit)]


def _slots(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    return tuple(
        Claim(claim.limit, claim.cost, forced=True)
        for claim in claims
        if isinstance(claim.limit, ConcurrencyLimit)
    )
