"""The limit store of `sidecar serve`: limits in Redis, and local shares while it is unavailable.

In local mode, this sidecar enforces its share of what was left, and writes each request into a
journal. Redis charges the journal when it is available again. `mode.py` decides which accounts
are in local mode.
"""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, NamedTuple

from sidecar.core.answers import Answer, Hold, QuotaDetail
from sidecar.core.claims import at_no_cost
from sidecar.core.kinds import SLOTS, PeriodLimit
from sidecar.core.model import Account, Claim, WhenDown
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
from sidecar.stores.local.mode import LocalMode
from sidecar.stores.local.shares import LocalLimits
from sidecar.stores.redis import Fallback, RedisLimitStore
from sidecar.stores.settler import OnSettled


class StoreStats(NamedTuple):
    """What a store has done and has to do. Numbers are of requests, if not said otherwise."""

    local_mode: bool  # whether all accounts are on local shares
    sidecars: int  # sidecars that are alive, this one included
    allowed_locally: int
    uncharged: int
    not_on_disk: int  # uncharged and not in the journal: a crash loses them
    open_reservations: int
    pending_settlements: int
    dropped_settlements: int
    late_reservations: int


class _LocalHold(NamedTuple):
    """A request in flight that was allowed in local mode, at `at_us` in Redis time."""

    account: Account
    key_id: str
    claims: Sequence[Claim]
    hold: Hold
    reported: tuple[int, ...]  # overage of each claim that its event reports, if it is not late
    at_us: int


class FallbackStore:
    """Implements `ports.LimitStore`, with and without Redis.

    `start` comes first, `close` last; `run` has to run in between.
    """

    def __init__(
        self, wire: Connection, journal: Journal, disk: Files, *, own_id: str, prefix: str = "qs"
    ) -> None:
        self.redis = redis = RedisLimitStore(wire, prefix)
        self._fallback: Fallback = self._after_failure  # bound once, not by each request
        self._allowed_locally = 0
        self._uncounted = 0  # of those, requests that local mode had no room to count
        self._wire = wire
        self._journal = journal
        self._clock = StoreClock()
        self._local = LocalLimits(
            self._clock.now_us,
            snapshots_of=redis.snapshots,
            window=redis.commands.window,
            open_in_redis=lambda account_id: self.mode.open_in_redis(account_id),
        )
        self._charger = Charger(wire, redis.commands, prefix, self._discard_journal)
        self.mode = LocalMode(
            redis,
            wire,
            self._local,
            heartbeat=Heartbeat(wire, prefix, own_id, self._clock),
            charger=self._charger,
            abandoned=AbandonedJournals(journal.directory, wire, redis.commands, prefix, disk),
            now_us=self._clock.now_us,
            before_return=self._claim_slots,
        )
        self._holds: dict[str, _LocalHold] = {}
        self._slots_in_redis: set[str] = set()  # ids of local holds whose slots Redis has counted

    def now_us(self) -> int:
        """The best estimate of Redis time, in µs since the epoch."""
        return self._clock.now_us()

    def redis_us(self) -> int:
        """Redis time in µs: its last answer plus the time since; 0 before the first one."""
        return self._clock.now_us() if self._clock.is_set else 0

    @property
    def up(self) -> bool:
        """Whether Redis is available."""
        return self._wire.up

    @property
    def uncharged(self) -> int:
        """Number of requests that Redis has not charged yet."""
        return self._charger.uncharged + self.mode.abandoned.uncharged

    def stats(self) -> StoreStats:
        """The current numbers, for metrics."""
        settler = self.redis.settler
        return StoreStats(
            local_mode=self.mode.all_local,
            sidecars=self.mode.heartbeat.alive,
            allowed_locally=self._allowed_locally,
            uncharged=self.uncharged,
            not_on_disk=self._journal.unwritten + self._charger.lost + self._uncounted,
            open_reservations=settler.open,
            pending_settlements=settler.pending,
            dropped_settlements=settler.dropped,
            late_reservations=self.redis.late_reservations,
        )

    def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        hold: Hold | None = None,
        once: bool = False,
        when_down: WhenDown = "deny",
    ) -> Coroutine[Any, Any, Answer]:
        """Grant all claims or none; see `ports.LimitStore`. Raises StoreUnavailable."""
        if self.mode.outage is None or self._redis_decides(account, key_id, when_down):
            return self.redis.reserve(
                account,
                key_id,
                claims,
                hold=hold,
                once=once,
                when_down=when_down,
                fallback=self._fallback,
            )
        if when_down == "deny":
            raise StoreUnavailable("Redis is unavailable, and the plan has no local mode")
        return self._reserve_in_outage(account, key_id, claims, hold, when_down, once=once)

    def _after_failure(
        self,
        error: StoreUnavailable,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        when_down: WhenDown,
    ) -> Answer:
        """Answer a request that Redis has not answered. Raises the error without a local mode."""
        self.mode.report_failure(str(error))
        if when_down == "deny":
            raise error
        answer = self._reserve_locally(account, key_id, claims, hold, when_down)
        if answer.granted:
            self._record(account, key_id, claims, hold, answer)
        return answer

    async def _reserve_in_outage(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        when_down: WhenDown,
        *,
        once: bool,
    ) -> Answer:
        mode = self.mode
        answer = self._reserve_locally(account, key_id, claims, hold, when_down)
        if answer.granted and mode.redis_decides_too:
            try:
                real = await self.redis.reserve(account, key_id, claims, hold=hold, once=once)
            except StoreUnavailable as error:
                mode.report_failure(str(error))
            else:
                if hold is not None and not real.granted:
                    self._local.settle(account, key_id, at_no_cost(claims), hold.id)
                return real
        if answer.granted:
            self._record(account, key_id, claims, hold, answer)
        return answer

    def _redis_decides(self, account: Account, key_id: str, when_down: WhenDown) -> bool:
        """Whether Redis is available and enforces this account, though others are local.

        It does at once for critical requests and for plans without a local mode. The key's
        uncharged requests are sent first.
        """
        if not self._wire.reachable:
            return False
        if when_down == "local" and (self.mode.all_local or account.id in self._local):
            return False
        self._charger.charge_first(account.id, key_id)
        return True

    def _reserve_locally(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        when_down: WhenDown,
    ) -> Answer:
        try:
            return self._local.reserve(account, key_id, claims, hold, when_down)
        except StoreUnavailable:
            if when_down in ("allow", "critical"):
                self._uncounted += 1
            raise

    def _record(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold: Hold | None,
        answer: Answer,
    ) -> None:
        """Record a request that was allowed without Redis."""
        self._allowed_locally += 1
        reported, at_us = tuple([detail.overage for detail in answer.details]), answer.now_us
        if hold is None:
            if any(claim.cost for claim in claims):
                self._charge(account, key_id, claims, None, reported, at_us)
        else:
            self._holds[hold.id] = _LocalHold(account, key_id, claims, hold, reported, at_us)
            if hold.orphans == "charge" and _quotas(claims):
                self._write(account, key_id, claims, hold.id, at_us, is_open=True)

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What Redis would answer to `reserve`, changing nothing. Raises StoreUnavailable."""
        return await self.redis.peek(account, key_id, claims)

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: OnSettled | None = None,
        *,
        billed: bool = True,
    ) -> None:
        """Correct an open reservation and close it; see `ports.LimitStore`."""
        reported: tuple[int, ...] = ()
        if self.mode.outage is not None:
            reported = self._local.settle(account, key_id, claims, hold_id, billed=billed)
        local = self._holds.pop(hold_id, None)
        if local is None:
            self.redis.settle(account, key_id, claims, hold_id, on_settled, billed=billed)
            return
        if not local.hold.late:
            reported = local.reported if billed else ()
        self._charge(account, key_id, claims, hold_id, reported, local.at_us)
        if hold_id in self._slots_in_redis:
            self._slots_in_redis.discard(hold_id)
            self.redis.settle(account, key_id, _slots(claims), hold_id)
        if on_settled is not None:  # no reservation in Redis, but overage that the event reports
            details = tuple([QuotaDetail(overage=units) for units in reported])
            on_settled(Answer(False, local.at_us, (), (), details))

    def forget(self) -> None:
        """Drop what was cached for the former plan file."""
        self.redis.forget()

    async def start(self) -> None:
        """Take over the journals of dead processes."""
        await self.mode.start()

    async def run(self) -> None:
        """Settle, renew leases, and switch to local mode and back, until cancelled."""
        await asyncio.gather(self.redis.run(), self.mode.run())

    async def close(self) -> None:
        """Settle and charge for a bounded time; the journal keeps what is left."""
        await self.redis.close()
        await self.mode.close()
        if not self._charger.uncharged:
            self._journal.discard()
        await self._journal.close()

    def _charge(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str | None,
        reported: Sequence[int],
        at_us: int,
    ) -> None:
        """Charge a finished request at its actual cost, in the period in which it was allowed.

        Its event names that period, and reports overage of `reported` units for each claim.
        """
        quotas = _quotas(claims)
        if not quotas:
            return
        reported = reported or (0,) * len(claims)
        reported = [
            units
            for claim, units in zip(claims, reported, strict=True)
            if isinstance(claim.limit, PeriodLimit)
        ]
        seq = self._write(account, key_id, claims, hold_id, at_us, reported)
        dated = [
            (claim, period_start(self.redis.commands.window(quota, account, at_us), at_us), units)
            for (claim, quota), units in zip(quotas, reported, strict=True)
        ]
        self._charger.add(account, key_id, self._journal.id, seq, at_us, dated)

    def _write(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str | None,
        at_us: int,
        reported: Sequence[int] = (),
        *,
        is_open: bool = False,
    ) -> int:
        def snapshot_of(quota: PeriodLimit) -> Snapshot:
            snapshots = self._local.snapshots(account.id)
            return snapshots.get(keys.limit_field(quota, key_id), NEVER_SEEN)

        return self._journal.add(
            account,
            key_id,
            claims,
            at_us,
            sidecars=self._local.sidecars,
            snapshot_of=snapshot_of,
            hold_id=hold_id,
            is_open=is_open,
            reported=reported,
        )

    def _discard_journal(self) -> None:
        """Delete the journal, as all of it is charged and no request in flight is in it."""
        if not self._holds:
            self._journal.discard()

    def _claim_slots(self, accounts: Collection[str]) -> None:
        """Count the slots of local requests in flight in Redis, which enforces them again."""
        for hold_id, local in self._holds.items():
            slots = _slots(local.claims)
            if slots and local.account.id in accounts and hold_id not in self._slots_in_redis:
                self._slots_in_redis.add(hold_id)
                self.redis.count(local.account, local.key_id, slots, local.hold)


def _quotas(claims: Sequence[Claim]) -> list[tuple[Claim, PeriodLimit]]:
    return [(one, one.limit) for one in claims if isinstance(one.limit, PeriodLimit)]


def _slots(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    return tuple(
        Claim(claim.limit, claim.cost, forced=True) for claim in claims if claim.limit.kind is SLOTS
    )
