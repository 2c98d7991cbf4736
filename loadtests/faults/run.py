"""One fault from beginning to end: calls before it, during it, after it; then the books."""

import asyncio
from typing import Final

from loadtests.faults.api import Api
from loadtests.faults.calls import Calls
from loadtests.faults.faults import Fault, Place, Redis
from loadtests.faults.house import House
from loadtests.faults.listener import Listener
from loadtests.faults.slow_way import SlowWay
from loadtests.faults.store import Single, ThreeShards
from loadtests.faults.verdict import COUNTED, Evidence, differences
from loadtests.processes import Stack

WARM_SECONDS: Final = 1.0  # first calls learn keys, scripts and periods
BEFORE, AFTER = 0.6, 0.8  # of the length of the fault, how long there are calls beside it


async def suffer(stack: Stack, fault: Fault, seconds: float) -> Evidence:
    """What was seen. Raises DidNotStart."""
    redis = _redis(stack, fault)
    await redis.start()
    api, way = Api(), SlowWay(redis.server.port)
    listeners = front, detour = Listener(api.serve), Listener(way.serve)
    for one in listeners:
        await one.start()
    url = f"redis://127.0.0.1:{detour.port}/0" if fault.slow_way else redis.url
    house = House(stack, redis, front.port, url)
    try:
        await house.start()
        return await _observe(house, api, Place(redis, way, seconds), fault)
    finally:
        for one in listeners:
            await one.stop()


def _redis(stack: Stack, fault: Fault) -> Redis:
    if fault.topology == "cluster":
        return ThreeShards(stack)
    return Single(stack, durable=fault.topology == "durable")


async def _observe(house: House, api: Api, place: Place, fault: Fault) -> Evidence:
    calls = Calls(house.ports)
    await _warm_up(calls, house)
    calls.start()
    await asyncio.sleep(BEFORE * place.seconds)
    lost_at = len(api.arrived[COUNTED.account])
    calls.phase = "during"
    await fault.happen(place)
    calls.phase = "after"
    await asyncio.sleep(AFTER * place.seconds)
    await calls.stop()
    rested = await house.at_rest()
    books = await asyncio.to_thread(house.reconcile)
    rebuilt = None
    if min(differences(books) or [0]) < 0:
        await asyncio.to_thread(house.rebuild)
        rebuilt = await asyncio.to_thread(house.reconcile)
    given_back = await house.total("sidecar_late_reservations_total")
    return Evidence(
        fault, calls.seen, api.arrived, api.most, lost_at, place.cuts, given_back, rested,
        books, rebuilt, house.complaints(),
    )  # fmt: skip


async def _warm_up(calls: Calls, house: House) -> None:
    """So that what is measured before the fault is what is normal."""
    first = Calls(house.ports)
    first.start()
    await asyncio.sleep(WARM_SECONDS)
    await first.stop()
    calls.seen.add(first.seen)
