"""The limit stores of sidecars, assembled as the app does, for a Valkey that has outages."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from sidecar.core.answers import Answer, Hold
from sidecar.core.decision import decide
from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim, Entitlement, Plan, RequestClass, Route, WhenDown
from sidecar.errors import StoreUnavailable
from sidecar.files import Files
from sidecar.stores import connect, keys
from sidecar.stores.local.journal import Journal
from sidecar.stores.local.store import FallbackStore
from sidecar.stores.scripts import read_state
from tests.support.stores.wire_ends import until_up

ACME = Account("acme", "pro")
LONG = 3_600 * MICRO


def a_quota(units: int, **changes: Any) -> QuotaLimit:
    return QuotaLimit("monthly", "requests", units, "month", units, **changes)


def a_rate(burst: int) -> RateLimit:
    """A bucket that does not refill during a test."""
    return RateLimit("slow", "requests", 1, 86_400 * MICRO, burst, (1, 86_400))


def an_entitlement(claims: tuple[Claim, ...]) -> Entitlement:
    """What the gate decides about."""
    guard = RateLimit("critical", "calls", 1000, MICRO, 5000, (1000, 1))
    plan = Plan("pro", 0, frozenset(), tuple(claim.limit for claim in claims), guard, "local")
    route = Route("rest", "/**", None, "/**", RequestClass.STANDARD, frozenset(), ())
    return Entitlement(plan, route, claims, (), None, b"", ())


def new_id() -> str:
    return os.urandom(8).hex()


@dataclass
class Sidecar:
    """One process's store. `granted` counts allowed requests."""

    wire: Any  # a Connection; a Wire where a test reads its internals
    store: FallbackStore
    journal: Journal
    account: Account = ACME
    granted: int = 0
    answers: list[Answer] = field(default_factory=list)

    async def request(
        self,
        *claims: Claim,
        when_down: WhenDown = "local",
        key_id: str = "k1",
        hold: Hold | None = None,
    ) -> bool | None:
        """Whether the request is allowed; None without a decision."""
        try:
            answer = await self.store.reserve(
                self.account, key_id, claims, hold=hold, when_down=when_down
            )
            decide(an_entitlement(claims), answer)
        except StoreUnavailable:
            return None
        self.answers.append(answer)
        self.granted += answer.granted
        return answer.granted

    async def requests(self, number: int, *claims: Claim, **more: Any) -> int:
        """The number of allowed requests out of `number`."""
        return [await self.request(*claims, **more) for _ in range(number)].count(True)

    async def until_local(self) -> None:
        """Wait until all accounts are on local shares."""
        await until_up(self.wire, up=False)
        async with asyncio.timeout(20):
            while not self.store.mode.all_local:
                await asyncio.sleep(0.005)

    async def until_back(self, in_flight: int = 0) -> None:
        """Wait until the outage is over and all but `in_flight` requests are charged."""
        async with asyncio.timeout(60):
            while self.store.mode.outage is not None or self.store.uncharged:
                await asyncio.sleep(0.005)
        assert len(self.store._holds) == in_flight

    async def until_written(self) -> None:
        """Wait until the journal is on disk."""
        async with asyncio.timeout(20):
            while self.journal._buffered_bytes:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def a_sidecar(
    url: str, directory: Path, *, timeout_s: float = 0.2, account: Account = ACME
) -> AsyncIterator[Sidecar]:
    """A started sidecar; closed at the end."""
    wire = connect(url, timeout_s=timeout_s)
    await wire.start()
    disk = Files()
    own_id = new_id()
    journal = Journal(directory, disk, identity=own_id, commit_window_s=0.001)
    store = FallbackStore(wire, journal, disk, own_id=own_id)
    await store.start()
    run = asyncio.ensure_future(store.run())
    one = Sidecar(wire, store, journal, account)
    try:
        yield one
    finally:
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
        await store.close()
        await wire.stop()


async def until_all_are_known(sidecars: Sequence[Sidecar]) -> None:
    async with asyncio.timeout(30):
        while any(one.store.mode.heartbeat.alive != len(sidecars) for one in sidecars):
            await asyncio.sleep(0.01)


def used(url: str, limit: QuotaLimit, account: Account = ACME, key_id: str = "k1") -> int:
    """The used units of a quota in Redis."""
    with redis.Redis.from_url(url) as client:
        packed = client.hget(keys.state("qs", account.id), keys.limit_field(limit, key_id))
        assert packed is None or isinstance(packed, bytes)
        return read_state(packed)[0] if packed else 0
