"""Limits in a real Valkey: exact under several processes, all or nothing, on its own clock."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from servers import free_port, start_valkey

from sidecar.core.model import MICRO, Account, Claim, QuotaLimit, RateLimit
from sidecar.errors import StoreUnavailable
from sidecar.stores import RedisLimitStore, Wire, keys

ACME = Account("acme", "pro")


def a_quota(units: int, **changes: object) -> QuotaLimit:
    return QuotaLimit("monthly", "requests", units, "month", units, **changes)  # type: ignore[arg-type]


def a_slow_rate(burst: int) -> RateLimit:
    """So slow that nothing comes back while a test runs."""
    return RateLimit("slow", "requests", 1, 86_400 * MICRO, burst, (1, 86_400))


@pytest.fixture
async def wire(valkey_url: str) -> AsyncIterator[Wire]:
    wire = Wire(valkey_url, timeout_s=2)
    await wire.start()
    yield wire
    await wire.stop()


async def test_I1_several_processes_admit_exactly_the_limit(valkey_url: str) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from sidecar.core.model import Account, Claim, QuotaLimit, RateLimit
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


async def test_I3_a_forced_claim_is_counted_beyond_the_cap(wire: Wire) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_quota(2), 1, True),)
    used = [(await store.reserve(ACME, "k1", claims)).used[0] for _ in range(4)]
    assert used == [1, 2, 3, 4]


async def test_I7_a_changed_plan_keeps_what_was_used(wire: Wire) -> None:
    store = RedisLimitStore(wire)
    for _ in range(3):
        await store.reserve(ACME, "k1", (Claim(a_quota(3), 1, False),))
    assert not (await store.reserve(ACME, "k1", (Claim(a_quota(3), 1, False),))).granted
    raised = await store.reserve(ACME, "k1", (Claim(a_quota(5), 1, False),))
    assert raised.granted
    assert raised.used == (4,)


async def test_limits_per_key_count_each_key(wire: Wire) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_quota(1, per="key"), 1, False),)
    assert (await store.reserve(ACME, "k1", claims)).granted
    assert not (await store.reserve(ACME, "k1", claims)).granted
    assert (await store.reserve(ACME, "k2", claims)).granted


async def test_I9_the_state_always_has_a_ttl(wire: Wire, valkey_url: str) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_quota(9), 1, False),)
    await store.reserve(ACME, "k1", claims)
    with redis.Redis.from_url(valkey_url) as client:
        name = keys.state("qs", "acme")
        client.persist(name)
        await store.reserve(ACME, "k1", claims)
        assert client.ttl(name) > 35 * 86_400


async def test_peek_spends_nothing(wire: Wire) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_quota(9), 2, False),)
    await store.reserve(ACME, "k1", claims)
    assert [(await store.peek(ACME, "k1", claims)).used for _ in range(3)] == [(2,)] * 3


async def test_a_flushed_script_cache_is_no_refusal(wire: Wire, valkey_url: str) -> None:
    store = RedisLimitStore(wire)
    claims = (Claim(a_quota(9), 1, False),)
    await store.reserve(ACME, "k1", claims)
    with redis.Redis.from_url(valkey_url) as client:
        client.script_flush()
    assert (await store.reserve(ACME, "k1", claims)).used == (2,)


async def test_an_unreachable_redis_is_said_at_once_and_found_again(tmp_path: Path) -> None:
    port = free_port()
    wire = Wire(f"redis://127.0.0.1:{port}/0")
    await wire.start()
    try:
        assert not wire.up
        assert str(port) in wire.last_error
        store = RedisLimitStore(wire)
        claims = (Claim(a_quota(9), 1, False),)
        with pytest.raises(StoreUnavailable):
            await store.reserve(ACME, "k1", claims)
        process, _ = await asyncio.to_thread(start_valkey, tmp_path, port=port)
        try:
            async with asyncio.timeout(10):
                while not wire.up:  # the wire tries again by itself
                    await asyncio.sleep(0.02)
            assert (await store.reserve(ACME, "k1", claims)).granted
        finally:
            process.kill()
            process.wait()
    finally:
        await wire.stop()


async def test_late_replies_never_reach_another_caller(tmp_path: Path) -> None:
    process, port = start_valkey(tmp_path)
    wire = Wire(f"redis://127.0.0.1:{port}/0", timeout_s=0.05)
    await wire.start()
    store = RedisLimitStore(wire)
    first, second = Account("first", "p"), Account("second", "p")
    claims = (Claim(a_quota(100), 1, False),)
    many = (Claim(a_quota(100), 10, False),)
    try:
        await store.reserve(first, "k", claims)
        await store.reserve(second, "k", many)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailable):
            await store.reserve(first, "k", claims)
        os.kill(process.pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            while True:
                try:
                    answer = await store.reserve(second, "k", many)
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.01)
        assert answer.used[0] % 10 == 0
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.wait()
        await wire.stop()


@pytest.mark.parametrize(
    ("credentials", "up"), [(":right@", True), (":wrong@", False), ("", False)]
)
async def test_a_password_is_needed_and_never_shown(
    tmp_path: Path, credentials: str, up: bool
) -> None:
    process, port = start_valkey(tmp_path, "--requirepass", "right")
    wire = Wire(f"redis://{credentials}127.0.0.1:{port}/3")
    try:
        await wire.start()
        assert wire.up is up
        assert "wrong" not in wire.last_error.lower() or "wrongpass" in wire.last_error.lower()
    finally:
        await wire.stop()
        process.kill()
        process.wait()
