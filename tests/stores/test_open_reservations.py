"""Open reservations: which ones this process renews, in time, and what settles them."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from sidecar.commands.serve import is_compiled
from sidecar.core.answers import Answer, Hold
from sidecar.core.kinds import MICRO, ConcurrencyLimit, QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.stores import RedisLimitStore, Wire, keys, settler
from sidecar.stores.connection.wire import PING

ACME = Account("acme", "pro")
LEASE_US = 30 * MICRO
SLOT = (Claim(ConcurrencyLimit("in-flight", 1), 1, forced=False),)
UNITS = (Claim(QuotaLimit("monthly", "requests", 100, "month", 100), 3, forced=False),)


class LaterLoop:
    """The clock of an event loop, `ahead_s` later."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def time(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


@pytest.fixture
async def wire(valkey_url: str) -> AsyncIterator[Wire]:
    wire = Wire(valkey_url, timeout_s=20)
    await wire.start()
    yield wire
    await wire.stop()


@pytest.fixture
def client(valkey_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey_url) as connection:
        yield connection


def lease_end(client: redis.Redis, name: str) -> float | None:
    """The end of a lease in Redis, in µs."""
    return client.zscore(keys.leases("qs", "acme"), name)


async def reserved(store: RedisLimitStore, claims: tuple[Claim, ...], name: str) -> Answer:
    return await store.reserve(ACME, "k1", claims, hold=Hold(name, LEASE_US))


@pytest.mark.parametrize(("ahead_s", "renewed"), [(9.9, False), (10.1, True)])
async def test_a_lease_is_renewed_after_a_third_of_it(
    wire: Wire, client: redis.Redis, ahead_s: float, renewed: bool
) -> None:
    store, later = RedisLimitStore(wire), LaterLoop()
    store.settler._loop = later  # type: ignore[assignment]
    await reserved(store, SLOT, "a")
    before = lease_end(client, "a")
    later.ahead_s = ahead_s
    store.settler._turn()
    await wire.execute(PING)
    after = lease_end(client, "a")
    assert before is not None and after is not None
    assert (after > before) is renewed


async def test_only_granted_reservations_are_open_and_none_after_its_settlement(
    wire: Wire,
) -> None:
    store = RedisLimitStore(wire)
    assert (await reserved(store, SLOT, "a")).granted
    assert [one.hold_id for one in store.settler.open_reservations()] == ["a"]
    for name in ("b", "c"):
        assert not (await reserved(store, SLOT, name)).granted
    fresh = (Claim(SLOT[0].limit, 1, forced=False),)  # encoded for the first time
    assert not (await reserved(store, fresh, "d")).granted
    assert [one.hold_id for one in store.settler.open_reservations()] == ["a"]
    store.settle(ACME, "k1", SLOT, "a")
    assert store.settler.open == 0


async def test_I11_a_refund_between_billed_settlements_is_sent_as_a_refund(
    wire: Wire, client: redis.Redis
) -> None:
    """Billed settlements at the reserved cost share one encoded command."""
    store = RedisLimitStore(wire)
    with client.monitor() as monitor:
        for name, billed in (("a", True), ("b", False), ("c", True)):
            await reserved(store, UNITS, name)
            store.settle(ACME, "k1", UNITS, name, billed=billed)
        async with asyncio.timeout(20):
            while store.settler.pending:
                await asyncio.sleep(0)
        sent: dict[str, str] = {}
        while len(sent) < 3:
            words = str(monitor.next_command()["command"]).split()
            if words[0] == "EVALSHA" and words[1] == store.settler.script.sha.decode():
                sent[words[-1]] = words[-2]
    assert sent == {"a": "1", "b": "0", "c": "1"}


@pytest.mark.skipif(is_compiled(), reason="what is compiled cannot be replaced")
async def test_I9_beyond_the_bound_the_oldest_settlement_is_left_to_its_lease(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "MOST_PENDING", 2)
    store = RedisLimitStore(wire)
    for name in ("a", "b", "c"):
        await reserved(store, UNITS, name)
    await wire.stop()
    answers: dict[str, list[Answer | None]] = {"a": [], "b": [], "c": []}
    for name, got in answers.items():
        store.settle(ACME, "k1", UNITS, name, got.append)
    assert (store.settler.pending, store.settler.dropped) == (2, 1)
    assert (len(answers["a"]), len(answers["b"])) == (2, 1)


async def test_a_settlement_whose_connection_is_lost_is_reported_as_unconfirmed(
    wire: Wire,
) -> None:
    store = RedisLimitStore(wire)
    await reserved(store, UNITS, "a")
    answers: list[Answer | None] = []
    store.settle(ACME, "k1", UNITS, "a", answers.append)
    assert answers == []
    await wire.stop()
    async with asyncio.timeout(20):
        while not answers:
            await asyncio.sleep(0)
    assert (answers, store.settler.pending) == ([None], 1)
