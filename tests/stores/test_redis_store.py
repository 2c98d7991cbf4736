"""Limits in Redis, beyond the contract of all stores in tests/contracts."""

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator

import pytest
import redis

from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim
from sidecar.errors import StoreUnavailable
from sidecar.stores import RedisLimitStore, Wire, keys

ACME = Account("acme", "pro")


def a_quota(units: int, **changes: object) -> QuotaLimit:
    return QuotaLimit("monthly", "requests", units, "month", units, **changes)  # type: ignore[arg-type]


def a_slow_rate(burst: int) -> RateLimit:
    """A bucket that does not refill during a test."""
    return RateLimit("slow", "requests", 1, 86_400 * MICRO, burst, (1, 86_400))


@pytest.fixture
async def wire(valkey_url: str) -> AsyncIterator[Wire]:
    wire = Wire(valkey_url, timeout_s=2)
    await wire.start()
    yield wire
    await wire.stop()


async def test_I1_several_processes_are_granted_exactly_the_limit(valkey_url: str) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from sidecar.core.kinds import QuotaLimit, RateLimit
        from sidecar.core.model import Account, Claim
        from sidecar.stores import RedisLimitStore, Wire
        async def main():
            wire = Wire(sys.argv[1], timeout_s=20)
            await wire.start()
            store = RedisLimitStore(wire)
            claims = (
                Claim(QuotaLimit("monthly", "requests", 500, "month", 500), 1, False),
                Claim(RateLimit("slow", "requests", 1, 86_400_000_000, 700, (1, 86_400)), 1, False),
            )
            async def hammer():
                admitted = 0
                for _ in range(50):
                    answer = await store.reserve(Account("acme", "pro"), "k1", claims)
                    admitted += answer.granted
                return admitted
            print(sum(await asyncio.gather(*(hammer() for _ in range(8)))))
            await wire.stop()
        asyncio.run(main())
    """)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, valkey_url], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    admitted = [int(process.communicate(timeout=90)[0]) for process in running]
    assert sum(admitted) == 500


async def test_I2_a_refusal_leaves_the_state_byte_for_byte(wire: Wire, valkey_url: str) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_slow_rate(100), 1, False), Claim(a_quota(3), 1, False))
    for _ in range(3):
        assert (await store.reserve(ACME, "k1", claims)).granted
    with redis.Redis.from_url(valkey_url) as client:
        before = client.dump(keys.state("qs", "acme"))
        expires = client.expiretime(keys.state("qs", "acme"))
        for _ in range(5):
            assert not (await store.reserve(ACME, "k1", claims)).granted
        assert client.dump(keys.state("qs", "acme")) == before
        assert client.expiretime(keys.state("qs", "acme")) == expires


async def test_I9_the_state_always_has_a_ttl(wire: Wire, valkey_url: str) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_quota(9), 1, False),)
    await store.reserve(ACME, "k1", claims)
    with redis.Redis.from_url(valkey_url) as client:
        assert client.ttl(keys.state("qs", "acme")) > 35 * 86_400


async def test_a_flushed_script_cache_refuses_nothing_and_charges_nothing_twice(
    wire: Wire, valkey_url: str
) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_quota(50), 1, False),)
    await store.reserve(ACME, "k1", claims)
    with redis.Redis.from_url(valkey_url) as client:
        client.script_flush()
    answers = await asyncio.gather(*(store.reserve(ACME, "k1", claims) for _ in range(100)))
    assert sum(answer.granted for answer in answers) == 49
    assert sorted(answer.used[0] for answer in answers)[:49] == list(range(2, 51))
    with redis.Redis.from_url(valkey_url) as client:
        client.script_flush()
    assert (await store.peek(ACME, "k1", claims)).used == (50,)


async def test_a_redis_that_takes_no_writes_is_unavailable(wire: Wire, valkey_url: str) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_quota(9), 1, False),)
    await store.reserve(ACME, "k1", claims)
    with redis.Redis.from_url(valkey_url) as client:
        client.config_set("maxmemory", "1")
        try:
            for some in (claims, (Claim(a_quota(9), 1, False),)):  # cached by the store, and new
                with pytest.raises(StoreUnavailable, match="OOM"):
                    await store.reserve(ACME, "k1", some)
        finally:
            client.config_set("maxmemory", "0")
    assert (await store.reserve(ACME, "k1", claims)).used == (2,)
