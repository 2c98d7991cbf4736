"""When this sidecar counts alone, and when no longer.

Away: Redis cannot be reached. Then everything is counted here. When Redis is back, calls that take
from shares go on being counted here until every sidecar that was there has charged what it let
pass, or has had the time to: else one would give out what another has used. Without being away,
only accounts are counted here that Redis did not answer for; they come back in the same way.
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
from sidecar.stores.local.journal_reader import Past
from sidecar.stores.local.shares import LocalLimits
from sidecar.stores.redis import RedisLimitStore
from sidecar.stores.settler import OpenReservation

log = logger("stores")

BEAT_SECONDS: Final = 1.0
TURN_SECONDS: Final = 0.05  # while something is counted alone
PATIENCE_SECONDS: Final = 3.0  # with sidecars that do not come back: longer than connecting takes
LOOK_SECONDS: Final = 5.0  # between two looks for journals of dead processes
CLOSE_SECONDS: Final = 2.0
REFUSED: Final = 3  # heartbeats in a row: Redis is there, and takes no writes
AT_ONCE: Final = 500  # accounts that go back to Redis in one turn


@dataclass(slots=True)
class Absence:
    """A time in which something is counted alone."""

    since_us: int  # Redis time
    began: datetime
    away: bool = False
    was_away: bool = False
    back: float | None = None  # loop time at which Redis was seen again
    over: bool = False  # accounts go back to Redis


class ModeKeeper:
    """`absence` is None while Redis counts everything. `released` is told of accounts, before
    Redis is asked again about them."""

    def __init__(
        self,
        redis: RedisLimitStore,
        wire: Connection,
        alone: LocalLimits,
        *,
        heart: Heartbeat,
        charger: Charger,
        inherited: AbandonedJournals,
        now_us: Callable[[], int],
        released: Callable[[Collection[str]], None],
    ) -> None:
        self.absence: Absence | None = None
        self.inherited = inherited
        self.heart = heart
        self._redis = redis
        self._wire = wire
        self._alone = alone
        self._charger = charger
        self._now_us = now_us
        self._released = released
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._heir: asyncio.Task[None] | None = None
        self._looked = self._loop.time()
        self._refused = 0  # heartbeats in a row
        self._in_redis: dict[str, list[OpenReservation]] | None = None

    @property
    def away(self) -> bool:
        """Whether all calls that take from shares are counted here."""
        return self.absence is not None and self.absence.away

    @property
    def asks_both(self) -> bool:
        """Whether Redis is back and knows all that was let pass here: then it is asked as well,
        so that nothing passes that it refuses, nor what may be left to others."""
        owing = self._charger.behind or self.inherited.waiting
        return self._wire.reachable and not owing

    def held_in_redis(self, account_id: str) -> list[OpenReservation]:
        """Calls of the account that hold slots in Redis."""
        settler = self._redis.settler
        if self._in_redis is None:
            self._in_redis = {}
            for call in settler.open_reservations():
                self._in_redis.setdefault(call.account.id, []).append(call)
        calls = self._in_redis.get(account_id, [])
        return [call for call in calls if settler.is_open(call.hold_id)]

    def lose(self, why: str, *, away: bool = False) -> None:
        """Redis did not answer. `away`: nor can it be reached; else that is looked at here."""
        absence = self.absence
        if absence is None:
            absence = self.absence = Absence(self._now_us(), datetime.now(UTC))
            self._alone.ways = max(self._alone.ways, self.heart.alive)
            self._wake.set()
        if away or not self._wire.reachable:
            absence.back, absence.over = None, False
            if not absence.away:
                absence.away = absence.was_away = True
                log.warning("local_mode_started", error=why, sidecars=self._alone.ways)

    async def take_over(self) -> None:
        """What former processes of this sidecar let pass: it is of our share, and owed."""
        pasts = await self.inherited.find()
        for past in pasts:
            self._alone.ways = max(self._alone.ways, past.sidecars)
        for past in pasts:
            self._count(past)
        if pasts:
            self.lose("a former process has left what it did not charge", away=True)

    def _count(self, past: Past) -> None:
        for (number, _), (at_us, units) in past.used.items():
            owner = past.owners[number]
            names = [keys.limit_field(quota, owner.key_id) for quota in owner.quotas]
            claims = [
                Claim(quota, cost, forced=True)
                for quota, cost in zip(owner.quotas, units, strict=True)
            ]
            looks = dict(zip(names, owner.looks, strict=True))
            with contextlib.suppress(StoreUnavailable):  # no room: it is still charged
                self._alone.count_before(owner.account, owner.key_id, claims, at_us, looks)

    async def run(self) -> None:
        """Tell that this sidecar is alive, charge, come back; until cancelled."""
        while True:
            await self._turn()
            self._wake.clear()
            pause = BEAT_SECONDS if self.absence is None else TURN_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _turn(self) -> None:
        absence = self.absence
        if not self._wire.reachable:
            self.lose(self._wire.last_error or "it does not answer in time", away=True)
        elif absence is None:
            if await self.heart.beat("well") != "told":
                self.lose("the heartbeat was not answered")
            await self._look_for_journals()
        else:
            await self._return(absence)

    async def _look_for_journals(self) -> None:
        if self._loop.time() - self._looked >= LOOK_SECONDS:
            self._looked = self._loop.time()
            await self.inherited.find()
            self._inherit()

    def _inherit(self) -> None:
        if self.inherited.waiting and (self._heir is None or self._heir.done()):
            self._heir = self._loop.create_task(self.inherited.charge())

    async def _return(self, absence: Absence) -> None:
        if absence.back is None:
            absence.back = self._loop.time()
        self._charger.turn()
        self._inherit()
        owing = bool(self._charger.behind or self.inherited.waiting)
        heard = await self.heart.beat("owing" if owing else "well", absence.since_us)
        self._refused = self._refused + 1 if heard == "refused" else 0
        if self._refused >= REFUSED:
            self.lose("redis takes no writes", away=True)
        if heard == "refused" or absence is not self.absence or absence.back is None:
            return  # or lost again meanwhile
        # Of a cluster the part may be lost that tells who is alive.
        everyone = heard == "told" and self.heart.ready >= max(self._alone.ways, self.heart.alive)
        waited = self._loop.time() - absence.back >= PATIENCE_SECONDS
        if absence.over or waited or (everyone and not owing):
            absence.over, absence.away = True, False
            self._release()
            if not len(self._alone) and not self._charger.behind:
                self._end(absence)

    def _release(self) -> None:
        """Let Redis count accounts again, but those that owe. What is in buckets goes ahead."""
        owing = {account_id for account_id, _ in self._charger.behind}
        ids = [one for one in self._alone.accounts if one not in owing][:AT_ONCE]
        self._redis.load()
        for account_id in ids:
            for account, key_id, claim in self._alone.levels(account_id):
                self._redis.count(account, key_id, (claim,))
        self._released(set(ids))
        for account_id in ids:
            self._alone.forget(account_id)

    def _end(self, absence: Absence) -> None:
        self.absence = self._in_redis = None
        self._alone.ways = 1
        if absence.was_away:
            seconds = (datetime.now(UTC) - absence.began).total_seconds()
            log.info("local_mode_ended", alone_since=absence.began.isoformat(),
                     seconds=round(seconds, 1), sidecars=self.heart.alive)  # fmt: skip

    async def close(self) -> None:
        """Charge what can be charged in a bounded time; say that this sidecar is leaving."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._wire.reachable and self._charger.owed:
                    self._charger.turn()
                    await asyncio.sleep(0.01)
        if self._heir is not None:
            self._heir.cancel()
            await asyncio.gather(self._heir, return_exceptions=True)
        self.inherited.close()
        if self._wire.reachable:
            await self.heart.beat("leaving")
