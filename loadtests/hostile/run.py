"""One attack from beginning to end: clients without it, then with it, and what both cost."""

import asyncio
import time
from typing import Final

from loadtests.hostile.attacks import ATTACKS
from loadtests.hostile.clients import MeasuredClients
from loadtests.hostile.environment import HostileEnvironment
from loadtests.hostile.verdict import Evidence
from loadtests.processes import DidNotStart, Stack

WARM_UP_SECONDS: Final = 1.0
SAMPLE_SECONDS: Final = 0.1
ONSET: Final = 0.25  # share of an attack in which its connections open; its latency is not judged


async def run_attack(stack: Stack, name: str, seconds: float) -> Evidence:
    """Run one attack. Raises DidNotStart."""
    environment = HostileEnvironment(stack)
    await asyncio.to_thread(environment.start)
    try:
        return await _observe(environment, name, seconds)
    finally:
        environment.close()


async def _observe(environment: HostileEnvironment, name: str, seconds: float) -> Evidence:
    clients = MeasuredClients(environment.port)
    clients.start()
    await asyncio.sleep(WARM_UP_SECONDS)
    clients.phase = "calm"
    await asyncio.sleep(seconds)
    idle_bytes, redis_before = environment.sidecar.rss_bytes(), environment.redis_bytes()
    clients.phase = "onset"
    attack_from = time.monotonic() + ONSET * seconds
    attack = asyncio.create_task(environment.attack(name, seconds))
    peak_bytes, redis_peak = idle_bytes, redis_before
    while not attack.done():
        if time.monotonic() > attack_from:
            clients.phase = "attack"
        peak_bytes = max(peak_bytes, environment.sidecar.rss_bytes())
        redis_peak = max(redis_peak, await asyncio.to_thread(environment.redis_bytes))
        await asyncio.sleep(SAMPLE_SECONDS)
    await clients.stop()
    code = environment.sidecar.popen.poll()
    if code is not None:
        raise DidNotStart(f"the sidecar ended with {code}: {environment.sidecar.tail()}")
    return Evidence(
        name=name,
        connections=ATTACKS[name].connections,
        sent=await attack,
        measurements=clients.measurements,
        idle_bytes=idle_bytes,
        peak_bytes=max(peak_bytes, environment.sidecar.rss_bytes()),
        redis_growth=redis_peak - redis_before,
        error_lines=environment.error_lines(),
    )
