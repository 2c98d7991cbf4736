"""Settlements at the reserved cost share a cached command, and each closes its reservation."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import redis

from sidecar.core.answers import Answer, Hold
from sidecar.core.kinds import MICRO, ConcurrencyLimit, QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.stores import RedisLimitStore, Wire

ACME = Account("acme", "pro")
SLOTS = Claim(ConcurrencyLimit("in-flight", 2), 1, forced=False)
QUOTA = Claim(QuotaLimit("monthly", "requests", 100, "month", 100), 1, forced=False)


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[RedisLimitStore]:
    wire = Wire(valkey_url, timeout_s=2)
    await wire.start()
    yield RedisLimitStore(wire)
    await wire.stop()


async def reserved(store: RedisLimitStore, claims: Sequence[Claim], name: str) -> Answer:
    return await store.reserve(ACME, "k1", claims, hold=Hold(name, 30 * MICRO))


async def settled(store: RedisLimitStore, claims: Sequence[Claim], name: str) -> tuple[int, ...]:
    answers: asyncio.Queue[Answer] = asyncio.Queue()
    store.settle(ACME, "k1", claims, name, answers.put_nowait)
    async with asyncio.timeout(20):
        return (await answers.get()).used


async def test_each_settlement_closes_its_own_reservation(store: RedisLimitStore) -> None:
    claims = (SLOTS, QUOTA)
    for name in ("a", "b"):
        assert (await reserved(store, claims, name)).granted
    assert not (await reserved(store, claims, "c")).granted
    assert await settled(store, claims, "b") == (1, 2)
    assert await settled(store, claims, "a") == (0, 2)
    assert (await reserved(store, claims, "d")).granted
    assert await settled(store, claims, "d") == (0, 3)
    assert store.settler.pending == 0


async def test_another_cost_is_settled_as_given(store: RedisLimitStore) -> None:
    claims = (SLOTS, QUOTA)
    for name in ("a", "b", "c"):
        assert (await reserved(store, claims, name)).granted
        await settled(
            store, claims if name == "a" else (SLOTS, Claim(QUOTA.limit, 30, False)), name
        )
    assert (await store.peek(ACME, "k1", claims)).used == (0, 61)


async def test_in_another_period_the_command_is_encoded_again(store: RedisLimitStore) -> None:
    claims = (SLOTS, QUOTA)
    assert (await reserved(store, claims, "a")).granted
    windows = store.commands._windows
    now = dict(windows)
    for name, window in now.items():
        long_ago = [edge - 100 * (window.end - window.start) for edge in window]
        windows[name] = type(window)(*long_ago)
    assert await settled(store, claims, "a") == (0, 1)
    assert windows == now
    assert (await reserved(store, claims, "b")).granted
    assert await settled(store, claims, "b") == (0, 2)


async def test_a_settlement_without_a_reply_is_reported_as_unconfirmed_and_then_answered(
    valkey_url: str,
) -> None:
    """Also if it was never sent, and if it is dropped."""
    wire = Wire(valkey_url, timeout_s=2)
    await wire.start()
    store = RedisLimitStore(wire)
    assert (await reserved(store, (QUOTA,), "a")).granted
    await wire.stop()
    answers: list[Answer | None] = []
    store.settle(ACME, "k1", (QUOTA,), "a", answers.append)
    assert answers == [None]
    async with asyncio.timeout(20):
        await wire.start()
        while store.settler.pending:
            store.settler._turn()
            await asyncio.sleep(0.01)
    assert answers[-1] is not None and answers[-1].granted
    await wire.stop()
    store.settle(ACME, "k1", (QUOTA,), "b", answers.append)
    await store.close()
    assert answers[-1] is None


async def test_a_stop_reports_settlements_whose_answer_does_not_come(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that their events are recorded before the spool closes."""
    monkeypatch.setattr("sidecar.stores.settler.CLOSE_SECONDS", 0.05)
    wire = Wire(valkey_url, timeout_s=60)
    await wire.start()
    store = RedisLimitStore(wire)
    assert (await reserved(store, (QUOTA,), "a")).granted
    with redis.Redis.from_url(valkey_url) as client:
        client.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
        answers: list[Answer | None] = []
        store.settle(ACME, "k1", (QUOTA,), "a", answers.append)
        await store.close()
        assert answers == [None]
        client.execute_command("CLIENT", "UNPAUSE")
    await wire.stop()
