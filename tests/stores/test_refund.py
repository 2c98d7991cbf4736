"""A reservation that is granted after its request gave up is undone; see `refund.lua`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from sidecar.core.counting.teams import team_share
from sidecar.core.kinds import QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim, Team
from sidecar.errors import StoreUnavailable
from sidecar.stores import RedisLimitStore, Wire, keys
from sidecar.stores.connection.wire import BREAKER_TIMEOUTS
from sidecar.stores.redis import CACHED_COMMANDS
from tests.support.stores.wire_ends import Server, a_server, a_wire, until_up

ACME = Account("acme", "pro")
QUOTA = QuotaLimit("monthly", "requests", 100, "month", 100)
# It does not refill during a test.
RATE = RateLimit("burst", "requests", 3, 100_000_000, 50, (3, 100_000_000), per="key")
CLAIMS = (Claim(QUOTA, 3, True), Claim(RATE, 2, False))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path) as server:
        yield server


async def used(store: RedisLimitStore) -> tuple[int, ...]:
    return (await store.peek(ACME, "k1", CLAIMS)).used


async def late(server: Server, wire: Wire, store: RedisLimitStore) -> None:
    """A reservation that Redis makes after the timeout of its request."""
    server.pause()
    try:
        with pytest.raises(StoreUnavailable):
            await store.reserve(ACME, "k1", CLAIMS)
    finally:
        server.go_on()
    await until_up(wire)


async def settled(store: RedisLimitStore, expected: tuple[int, ...]) -> None:
    async with asyncio.timeout(20):
        while await used(store) != expected:
            await asyncio.sleep(0)


async def test_I2_a_request_refused_after_a_timeout_is_not_charged(server: Server) -> None:
    async with a_wire(server.url, timeout_s=0.2) as wire:
        store = RedisLimitStore(wire)
        before = (await store.reserve(ACME, "k1", CLAIMS)).used
        await late(server, wire, store)
        await settled(store, before)
        assert store.late_reservations == 1


async def test_I2_a_team_is_not_charged_either_and_its_guarantee_returns(
    server: Server,
) -> None:
    share = team_share(QUOTA, (Team("ads", 30, lends=False),), "ads")
    claims = (Claim(QUOTA, 3, False), Claim(share, 3, False))
    async with a_wire(server.url, timeout_s=0.2) as wire:
        store = RedisLimitStore(wire)
        before = await store.reserve(ACME, "k1", claims)
        assert before.details[1].notified == 27
        server.pause()
        with pytest.raises(StoreUnavailable):
            await store.reserve(ACME, "k1", claims)
        server.go_on()
        await until_up(wire)
        async with asyncio.timeout(20):
            while not store.late_reservations:
                await asyncio.sleep(0)
        after = await store.peek(ACME, "k1", claims)
        assert after.used == before.used == (3, 3)
        assert after.details[1].notified == 27


@pytest.mark.parametrize("first", [False, True])
async def test_I5_a_client_that_left_before_the_answer_is_not_charged(
    server: Server, first: bool
) -> None:
    async with a_wire(server.url) as wire:
        store = RedisLimitStore(wire)
        before = (0, 0) if first else (await store.reserve(ACME, "k1", CLAIMS)).used
        if first:
            await store.peek(ACME, "k1", CLAIMS)  # caches the period, not the script
            await asyncio.wait_for(load(wire), 20)
        asked = asyncio.ensure_future(store.reserve(ACME, "k1", CLAIMS))
        await asyncio.sleep(0)  # it is sent
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        async with asyncio.timeout(20):
            while not store.late_reservations:
                await asyncio.sleep(0)
        await settled(store, before)


async def test_I2_any_number_of_requests_refused_after_a_timeout_are_not_charged(
    server: Server,
) -> None:
    async with a_wire(server.url, timeout_s=0.2) as wire:
        store = RedisLimitStore(wire)
        before = (await store.reserve(ACME, "k1", CLAIMS)).used
        many = BREAKER_TIMEOUTS + 5  # until requests fail at once
        server.pause()
        try:
            asked = (store.reserve(ACME, "k1", CLAIMS) for _ in range(many))
            ends = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            server.go_on()
        assert [type(end) for end in ends] == [StoreUnavailable] * many
        await until_up(wire)
        await settled(store, before)
        assert store.late_reservations == many


@pytest.mark.parametrize("first", [False, True])
async def test_I5_a_client_that_left_at_the_moment_of_the_answer_is_not_charged(
    server: Server, first: bool
) -> None:
    async with a_wire(server.url) as wire:
        store = RedisLimitStore(wire)
        before = (0, 0) if first else (await store.reserve(ACME, "k1", CLAIMS)).used
        if first:
            await store.peek(ACME, "k1", CLAIMS)
            await asyncio.wait_for(load(wire), 20)
        asked = asyncio.ensure_future(store.reserve(ACME, "k1", CLAIMS))
        await asyncio.sleep(0)
        assert wire._link is not None
        reply = wire._link.waiting[-1][1]
        async with asyncio.timeout(20):
            while not reply.done():
                await asyncio.sleep(0)
        asked.cancel()  # before it gets the reply
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert store.late_reservations == 1
        await settled(store, before)


async def load(wire: Wire) -> None:
    from sidecar.stores.scripts import load as script

    await wire.execute(script("limits/reserve").load_command())


async def test_a_refund_takes_nothing_from_a_later_period(
    server: Server,
) -> None:
    async with a_wire(server.url) as wire:
        store = RedisLimitStore(wire)
        answer = await store.reserve(ACME, "k1", CLAIMS)
        (window,) = store.commands._windows.values()
        store._refund_late(ACME, "k1", CLAIMS, [1, window[0] - 1], wire._link)
        await settled(store, (3, 0))  # the bucket has no periods
        assert answer.granted


async def test_a_refund_creates_no_state_that_redis_has_lost(server: Server) -> None:
    async with a_wire(server.url) as wire:
        store = RedisLimitStore(wire)
        now_us = (await store.reserve(ACME, "k1", CLAIMS)).now_us
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
            store._refund_late(ACME, "k1", CLAIMS, [1, now_us], wire._link)
            await settled(store, (0, 0))
            assert not client.exists(keys.state("qs", ACME.id))


async def test_commands_for_claims_of_one_request_are_not_cached(server: Server) -> None:
    async with a_wire(server.url) as wire:
        store = RedisLimitStore(wire)
        for cost in range(5):
            await store.reserve(ACME, "k1", (Claim(QUOTA, cost, False),), once=True)
        assert store._cached == {}
        assert len(store.commands._windows) == 1 <= CACHED_COMMANDS
        assert (await store.peek(ACME, "k1", (Claim(QUOTA, 0, False),))).used == (10,)


async def test_I1_what_a_late_reservation_did_not_count_is_not_given_back(server: Server) -> None:
    forced = (Claim(QUOTA, 3, True), Claim(RATE, 2, True))
    async with a_wire(server.url, timeout_s=0.2) as wire:
        store = RedisLimitStore(wire)
        while (await store.reserve(ACME, "k1", forced)).ends_us[1] != -1:
            pass  # until the debt of the rate is at its bound
        before = await used(store)
        assert before[1] == 2 * RATE.burst * 1_000_000
        server.pause()
        with pytest.raises(StoreUnavailable):
            await store.reserve(ACME, "k1", forced)
        server.go_on()
        await until_up(wire)
        async with asyncio.timeout(20):
            while not store.late_reservations:
                await asyncio.sleep(0)
        assert await used(store) == before
