"""Reservations for the tests of topologies, one by one or many at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.errors import StoreUnavailable
from sidecar.stores import Connection, RedisLimitStore, connect, keys
from sidecar.stores.connection.slots import slot_of


def an_account(number: int) -> Account:
    return Account(f"account-{number}", "pro")


def slot_of_account(account: Account) -> int:
    return slot_of(keys.state("qs", account.id))


def claims(units: int = 1_000_000) -> tuple[Claim]:
    """One request on a quota with the longest period, so that none ends during a test."""
    return (Claim(QuotaLimit("monthly", "requests", units, "month", units), 1, False),)


@asynccontextmanager
async def connected(url: str, *, timeout_s: float = 10) -> AsyncIterator[Connection]:
    """A started connection, whether Redis is available or not."""
    connection = connect(url, timeout_s=timeout_s)
    async with asyncio.timeout(60):
        await connection.start()
    try:
        yield connection
    finally:
        await connection.stop()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition that code on the same loop fulfills."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


async def used(store: RedisLimitStore, account: Account) -> int:
    return (await store.peek(account, "k1", claims())).used[0]


@dataclass
class Crowd:
    """Clients that reserve for accounts, one request after the other, until they are stopped."""

    store: RedisLimitStore
    accounts: list[Account]
    units: int = 1_000_000
    granted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)  # requests without an answer
    errors: set[str] = field(default_factory=set)
    going: bool = True

    async def client(self, account: Account) -> None:
        asked = claims(self.units)
        while self.going:
            try:
                answer = await self.store.reserve(account, "k1", asked)
            except StoreUnavailable as error:
                self.unknown[account.id] += 1
                self.errors.add(str(error))
                await asyncio.sleep(0.005)
            else:
                (self.granted if answer.granted else self.refused)[account.id] += 1
            await asyncio.sleep(0)

    def answered(self) -> Counter[str]:
        """Granted and refused requests by account."""
        return self.granted + self.refused

    async def until_answered(self, more: int) -> None:
        """Wait until each account has got so many more answers."""
        before = self.answered()
        goal = {account.id: before[account.id] + more for account in self.accounts}
        await until(lambda: all(self.answered()[name] >= goal[name] for name in goal))


@asynccontextmanager
async def a_crowd(
    store: RedisLimitStore, accounts: list[Account], *, each: int = 2, units: int = 1_000_000
) -> AsyncIterator[Crowd]:
    """A crowd of `each` clients per account."""
    crowd = Crowd(store, accounts, units)
    callers = [
        asyncio.create_task(crowd.client(account)) for account in accounts for _ in range(each)
    ]
    try:
        yield crowd
    finally:
        crowd.going = False
        async with asyncio.timeout(60):
            await asyncio.gather(*callers)
