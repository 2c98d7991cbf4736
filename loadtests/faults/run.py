"""One fault from beginning to end: load before, during and after it, then the reconciliation."""

import asyncio
from typing import Final

from loadtests.faults.api import Api
from loadtests.faults.clients import Clients
from loadtests.faults.environment import FaultEnvironment
from loadtests.faults.faults import Fault, FaultTarget, Redis
from loadtests.faults.listener import Listener
from loadtests.faults.redis_servers import Single, ThreeShards
from loadtests.faults.slow_link import SlowLink
from loadtests.faults.verdict import COUNTED, Evidence, differences
from loadtests.processes import Stack

WARM_SECONDS: Final = 1.0  # first requests load scripts and find the periods
BEFORE, AFTER = 0.6, 0.8  # length of the phases, as a share of the fault's


async def run_fault(stack: Stack, fault: Fault, seconds: float) -> Evidence:
    """Run one fault. Raises DidNotStart."""
    redis = _redis(stack, fault)
    await redis.start()
    api, link = Api(), SlowLink(redis.server.port)
    listeners = api_listener, link_listener = Listener(api.serve), Listener(link.serve)
    for one in listeners:
        await one.start()
    url = f"redis://127.0.0.1:{link_listener.port}/0" if fault.slow_link else redis.url
    environment = FaultEnvironment(stack, redis, api_listener.port, url)
    try:
        await environment.start()
        return await _observe(environment, api, FaultTarget(redis, link, seconds), fault)
    finally:
        for one in listeners:
            await one.stop()


def _redis(stack: Stack, fault: Fault) -> Redis:
    if fault.topology == "cluster":
        return ThreeShards(stack)
    return Single(stack, durable=fault.topology == "durable")


async def _observe(
    environment: FaultEnvironment, api: Api, target: FaultTarget, fault: Fault
) -> Evidence:
    clients = Clients(environment.ports)
    await _warm_up(clients, environment)
    clients.start()
    await asyncio.sleep(BEFORE * target.seconds)
    lost_at = len(api.arrived[COUNTED.account])
    clients.phase = "during"
    await fault.inject(target)
    clients.phase = "after"
    await asyncio.sleep(AFTER * target.seconds)
    await clients.stop()
    at_rest = await environment.at_rest()
    reconciliation = await asyncio.to_thread(environment.reconcile)
    rebuilt = None
    if min(differences(reconciliation) or [0]) < 0:
        await asyncio.to_thread(environment.rebuild)
        rebuilt = await asyncio.to_thread(environment.reconcile)
    late_reservations = await environment.total("sidecar_late_reservations_total")
    return Evidence(
        fault, clients.measurements, api.arrived, api.most, lost_at, target.cuts,
        late_reservations, at_rest,
        reconciliation, rebuilt, environment.error_lines(),
    )  # fmt: skip


async def _warm_up(clients: Clients, environment: FaultEnvironment) -> None:
    """Send requests first, so that the phase before the fault is not a cold start."""
    first = Clients(environment.ports)
    first.start()
    await asyncio.sleep(WARM_SECONDS)
    await first.stop()
    clients.measurements.add(first.measurements)
