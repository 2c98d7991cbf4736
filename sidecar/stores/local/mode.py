"""Decides which accounts this sidecar enforces in local mode, and when Redis takes over again.

While Redis is unavailable, all accounts are on local shares. When it is available again, requests
of `local` plans stay on local shares until every sidecar has charged its journal, for at most
`PATIENCE_SECONDS`. Otherwise one sidecar would grant units that another has used. If Redis is
available but does not answer some requests, only their accounts are on local shares. They return
to Redis in the same way.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sidecar.core.model import Claim
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.local.abandoned_journals import AbandonedJournals
from sidecar.stores.local.charger import Charger
from sidecar.stores.local.heartbeat import Heartbeat
from sidecar.stores.local.journal_reader import JournalSummary
from sidecar.stores.local.shares import LocalLimits
from sidecar.stores.redis import RedisLimitStore
from sidecar.stores.settler import OpenReservation

log = logger("stores")

BEAT_SECONDS: Final = 1.0
TURN_SECONDS: Final = 0.05  # while an account is on local shares
PATIENCE_SECONDS: Final = 3.0  # for other sidecars to return: longer than connecting takes
FIND_SECONDS: Final = 5.0  # between two searches for abandoned journals
CLOSE_SECONDS: Final = 2.0
REFUSED: Final = 3  # heartbeats in a row that show that Redis takes no writes
RETURNED_AT_ONCE: Final = 500  # accounts that return to Redis in one turn


@dataclass(slots=True)
class Outage:
    """A time in which at least one account is on local shares."""

    since_us: int  # Redis time
    began: datetime
    all_local: bool = False
    was_all_local: bool = False
    available_since: float | None = None  # loop time; None while Redis is unavailable
    ending: bool = False  # accounts return to Redis


class LocalMode:
    """Switches accounts between Redis and local shares. `outage`: None while Redis decides all.

    `run` has to run all the time; `start` comes first, `close` last. `before_return` gets the
    ids of accounts before they return to Redis.
    """

    def __init__(
        self,
        redis: RedisLimitStore,
        wire: Connection,
        local: LocalLimits,
        *,
        heartbeat: Heartbeat,
        charger: Charger,
        abandoned: AbandonedJournals,
        now_us: Callable[[], int],
        before_return: Callable[[Collection[str]], None],
    ) -> None:
        self.outage: Outage | None = None
        self.abandoned = abandoned
        self.heartbeat = heartbeat
        self._redis = redis
        self._wire = wire
        self._local = local
        self._charger = charger
        self._now_us = now_us
        self._before_return = before_return
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._charging: asyncio.Task[None] | None = None  # abandoned journals
        self._found_at = self._loop.time()
        self._refused = 0  # heartbeats in a row
        self._reservations: dict[str, list[OpenReservation]] | None = None

    @property
    def all_local(self) -> bool:
        """Whether all accounts are on local shares."""
        return self.outage is not None and self.outage.all_local

    @property
    def redis_decides_too(self) -> bool:
        """Whether Redis is available and has charged all requests of this sidecar.

        Then Redis checks requests on local shares as well, so that none exceeds a limit.
        """
        return self._wire.reachable and not self._is_uncharged()

    def _is_uncharged(self) -> bool:
        return bool(self._charger.delayed or self.abandoned.uncharged)

    def open_in_redis(self, account_id: str) -> list[OpenReservation]:
        """The account's open reservations in Redis: this sidecar releases their slots."""
        settler = self._redis.settler
        if self._reservations is None:
            self._reservations = {}
            for one in settler.open_reservations():
                self._reservations.setdefault(one.account.id, []).append(one)
        reservations = self._reservations.get(account_id, [])
        return [one for one in reservations if settler.is_open(one.hold_id)]

    def report_failure(self, error: str, *, unavailable: bool = False) -> None:
        """Start or continue an outage, as Redis did not answer a request.

        `unavailable`: Redis takes no requests at all; otherwise the connection decides that.
        """
        outage = self.outage
        if outage is None:
            outage = self.outage = Outage(self._now_us(), datetime.now(UTC))
            self._local.sidecars = max(self._local.sidecars, self.heartbeat.alive)
            self._wake.set()
        if unavailable or not self._wire.reachable:
            outage.available_since, outage.ending = None, False
            if not outage.all_local:
                outage.all_local = outage.was_all_local = True
                log.warning("local_mode_started", error=error, sidecars=self._local.sidecars)

    async def start(self) -> None:
        """Lock abandoned journals. Their requests used this sidecar's shares, and are uncharged."""
        journals = await self.abandoned.find()
        for journal in journals:
            self._local.sidecars = max(self._local.sidecars, journal.sidecars)
        for journal in journals:
            self._count(journal)
        if journals:
            self.report_failure("abandoned journals are not charged yet", unavailable=True)

    def _count(self, journal: JournalSummary) -> None:
        for (number, _), (at_us, units) in journal.used.items():
            owner = journal.owners[number]
            names = [keys.limit_field(quota, owner.key_id) for quota in owner.quotas]
            claims = [
                Claim(quota, cost, forced=True)
                for quota, cost in zip(owner.quotas, units, strict=True)
            ]
            snapshots = dict(zip(names, owner.snapshots, strict=True))
            with contextlib.suppress(StoreUnavailable):  # no room: it is still charged
                self._local.count_past(owner.account, owner.key_id, claims, at_us, snapshots)

    async def run(self) -> None:
        """Send heartbeats, charge journals and return accounts to Redis, until cancelled."""
        while True:
            await self._turn()
            self._wake.clear()
            pause = BEAT_SECONDS if self.outage is None else TURN_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _turn(self) -> None:
        outage = self.outage
        if not self._wire.reachable:
            error = self._wire.last_error or "Redis does not answer in time"
            self.report_failure(error, unavailable=True)
        elif outage is None:
            if await self.heartbeat.beat("charged") != "ok":
                self.report_failure("the heartbeat failed")
            await self._find_abandoned()
        else:
            await self._end_outage(outage)

    async def _find_abandoned(self) -> None:
        if self._loop.time() - self._found_at >= FIND_SECONDS:
            self._found_at = self._loop.time()
            await self.abandoned.find()
            self._charge_abandoned()

    def _charge_abandoned(self) -> None:
        if self.abandoned.uncharged and (self._charging is None or self._charging.done()):
            self._charging = self._loop.create_task(self.abandoned.charge())

    async def _end_outage(self, outage: Outage) -> None:
        if outage.available_since is None:
            outage.available_since = self._loop.time()
        self._charger.turn()
        self._charge_abandoned()
        uncharged = self._is_uncharged()
        result = await self.heartbeat.beat("uncharged" if uncharged else "charged", outage.since_us)
        self._refused = self._refused + 1 if result == "refused" else 0
        if self._refused >= REFUSED:
            self.report_failure("Redis takes no writes", unavailable=True)
        if result == "refused" or outage is not self.outage or outage.available_since is None:
            return  # or unavailable again since the heartbeat was sent
        # In a cluster, the shard with the heartbeats may be the one that is unavailable.
        expected = max(self._local.sidecars, self.heartbeat.alive)
        all_ready = result == "ok" and self.heartbeat.ready >= expected
        waited = self._loop.time() - outage.available_since >= PATIENCE_SECONDS
        if outage.ending or waited or (all_ready and not uncharged):
            outage.ending, outage.all_local = True, False
            self._return_accounts()
            if not len(self._local) and not self._charger.delayed:
                self._finish(outage)

    def _return_accounts(self) -> None:
        """Let Redis enforce accounts again, unless they are uncharged. Bucket levels go first."""
        uncharged = {account_id for account_id, _ in self._charger.delayed}
        ids = [one for one in self._local.accounts if one not in uncharged][:RETURNED_AT_ONCE]
        self._redis.load_count_script()
        for account_id in ids:
            for account, key_id, claim in self._local.levels(account_id):
                self._redis.count(account, key_id, (claim,))
        self._before_return(set(ids))
        for account_id in ids:
            self._local.forget(account_id)

    def _finish(self, outage: Outage) -> None:
        self.outage = self._reservations = None
        self._local.sidecars = 1
        if outage.was_all_local:
            duration_s = round((datetime.now(UTC) - outage.began).total_seconds(), 1)
            log.info(
                "local_mode_ended",
                since=outage.began.isoformat(),
                duration_s=duration_s,
                sidecars=self.heartbeat.alive,
            )

    async def close(self) -> None:
        """Charge for a bounded time, and announce that this sidecar leaves."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._wire.reachable and self._charger.uncharged:
                    self._charger.turn()
                    await asyncio.sleep(0.01)
        if self._charging is not None:
            self._charging.cancel()
            await asyncio.gather(self._charging, return_exceptions=True)
        self.abandoned.close()
        if self._wire.reachable:
            await self.heartbeat.beat("leaving")
