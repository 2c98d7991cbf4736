"""Ten accounts overload an API, and one of them sends fifty times as much as each of the others.

The pool is real; its connections have no network, and time is virtual.
"""

import asyncio
import random
from typing import Any

import pytest

from sidecar.commands.serve import is_compiled
from sidecar.proxy.bounds import Bounds
from sidecar.proxy.upstream.address import Upstream
from sidecar.proxy.upstream.pool import UpstreamFailed, UpstreamPool
from tests.support.virtual_time import in_virtual_time

pytestmark = pytest.mark.skipif(is_compiled(), reason="a compiled class cannot be derived from")

CONNECTIONS = 20
SERVICE_S = 0.05  # average response time of the API, which then serves 400 requests per second
QUIET_RATE = 10.0  # requests per second, of each account
SECONDS = 20.0


class Nowhere:
    """The part of a connection that the pool uses."""

    usable, receiver, deadline, places, reading = True, None, 0.0, None, True

    def resume_reading(self) -> None:
        """Do nothing: reading was not paused."""


async def times(rates: dict[str, float], seed: int, percent: int) -> dict[str, list[float]]:
    """The durations of each account's requests; infinite for those that timed out."""
    loop = asyncio.get_running_loop()

    class NoNetwork(UpstreamPool):
        """A pool whose connections open at once and have no network."""

        async def _open(self) -> Any:
            return Nowhere()

    pool = NoNetwork(
        Upstream("127.0.0.1", 1),
        Bounds(
            upstream_connections=CONNECTIONS,
            critical_connections=0,
            account_percent=percent,
            connect_timeout=1.0,
        ),
    )
    took: dict[str, list[float]] = {account: [] for account in rates}
    calls: set[asyncio.Task[None]] = set()

    service = random.Random(seed)

    async def call(account: str) -> None:
        began = loop.time()
        try:
            connection = await pool.acquire(account)
        except UpstreamFailed:
            took[account].append(float("inf"))
            return
        await asyncio.sleep(service.expovariate(1 / SERVICE_S))
        pool.release(connection)
        took[account].append(loop.time() - began)

    async def customer(account: str, rate: float) -> None:
        chance = random.Random(f"{seed} {account}")
        while loop.time() < SECONDS:
            await asyncio.sleep(chance.expovariate(rate))
            task = asyncio.ensure_future(call(account))
            calls.add(task)
            task.add_done_callback(calls.discard)

    await asyncio.gather(*(customer(account, rate) for account, rate in rates.items()))
    while calls:
        await asyncio.gather(*calls)
    return took


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


@pytest.mark.parametrize("percent", [50, 100])
@pytest.mark.parametrize("seed", range(4))
def test_a_flood_does_not_slow_other_accounts(seed: int, percent: int) -> None:
    quiet = {f"quiet{n}": QUIET_RATE for n in range(9)}
    alone = in_virtual_time(times(quiet, seed, percent))
    flooded = in_virtual_time(times(quiet | {"flood": QUIET_RATE * 50}, seed, percent))
    assert sum(map(len, flooded.values())) > SECONDS * QUIET_RATE * 50
    of_nine = [one for account in quiet for one in flooded[account]]
    assert p99(of_nine) <= 1.5 * p99([one for own in alone.values() for one in own])
    # The flood gets the remaining capacity, or its share of it.
    served = sum(1 for one in flooded["flood"] if one != float("inf"))
    capacity = CONNECTIONS / SERVICE_S * SECONDS
    remaining = capacity - sum(map(len, alone.values()))
    assert served > (remaining - 0.05 * capacity) * percent / 100
