"""What happens to Redis. Each fault lasts from the call of `happen` to its return."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from loadtests.faults.slow_way import SlowWay
from loadtests.faults.store import Single, ThreeShards

Topology = Literal["durable", "forgetful", "cluster"]
Redis = Single | ThreeShards
EMPTY_SECONDS: Final = 1.0
LATE_SECONDS: Final = 2.0
NOT_THERE: Final = 9  # a port where no master is
CUTS_A_SECOND: Final = 4


@dataclass(slots=True)
class Place:
    """What a fault is done to. `cuts`: how often connections broke with calls on their way."""

    redis: Redis
    way: SlowWay
    seconds: float
    cuts: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """`forgets`: Redis may come back with less than it had; `breaks`: connections break, so what
    was on its way may be counted without an event."""

    name: str
    happen: Callable[[Place], Awaitable[None]]
    topology: Topology = "durable"
    forgets: bool = False
    breaks: bool = False
    slow_way: bool = False


async def killed(place: Place) -> None:
    """And started again with its data."""
    place.cuts += 1
    place.redis.server.kill()
    await asyncio.sleep(place.seconds)
    await asyncio.to_thread(place.redis.server.start)


async def starts_empty(place: Place) -> None:
    """Killed, and back a second later without its data."""
    place.cuts += 1
    place.redis.server.kill()
    await asyncio.sleep(EMPTY_SECONDS)
    await asyncio.to_thread(place.redis.server.start)
    await asyncio.sleep(place.seconds)


async def stands_still(place: Place) -> None:
    """SIGSTOP, SIGCONT."""
    place.redis.server.send(signal.SIGSTOP)
    await asyncio.sleep(place.seconds)
    place.redis.server.send(signal.SIGCONT)


async def is_slow(place: Place) -> None:
    """Each reply is two seconds late."""
    place.way.delay = LATE_SECONDS
    await asyncio.sleep(place.seconds)
    place.way.delay = 0.0


async def takes_no_writes(place: Place) -> None:
    """A replica, of a master that is not there."""
    server = place.redis.server
    await asyncio.to_thread(server.ask, "REPLICAOF", "127.0.0.1", NOT_THERE)
    await asyncio.sleep(place.seconds)
    await asyncio.to_thread(server.ask, "REPLICAOF", "NO", "ONE")


async def has_no_memory(place: Place) -> None:
    """`maxmemory 1` with `noeviction`."""
    server = place.redis.server
    await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory", 1)
    await asyncio.sleep(place.seconds)
    await asyncio.to_thread(server.ask, "CONFIG", "SET", "maxmemory", 0)


async def forgets_scripts(place: Place) -> None:
    """SCRIPT FLUSH, several times a second."""
    for _ in range(int(place.seconds * CUTS_A_SECOND)):
        await asyncio.to_thread(place.redis.server.ask, "SCRIPT", "FLUSH")
        await asyncio.sleep(1 / CUTS_A_SECOND)


async def cuts_connections(place: Place) -> None:
    """All of its clients', several times a second."""
    for _ in range(int(place.seconds * CUTS_A_SECOND)):
        place.cuts += 1
        await asyncio.to_thread(place.redis.server.ask, "CLIENT", "KILL", "TYPE", "normal")
        await asyncio.sleep(1 / CUTS_A_SECOND)


async def shard_fails_over(place: Place) -> None:
    """A master is killed, its replica takes over; it comes back as a replica."""
    place.cuts += 1
    place.redis.server.kill()
    await _replaced(place)
    await asyncio.to_thread(place.redis.server.start)
    await asyncio.sleep(place.seconds / 2)


async def master_stands_still(place: Place) -> None:
    """Until its replica has taken over; then it goes on, and believes for a moment that it is
    still the master."""
    place.redis.server.send(signal.SIGSTOP)
    await _replaced(place)
    await asyncio.sleep(place.seconds / 2)
    place.redis.server.send(signal.SIGCONT)


async def _replaced(place: Place) -> None:
    cluster = place.redis
    assert isinstance(cluster, ThreeShards)
    await asyncio.to_thread(cluster.until_replaced)


FAULTS: Final = (
    Fault("killed", killed, breaks=True),
    Fault("starts empty", starts_empty, "forgetful", forgets=True, breaks=True),
    Fault("stands still", stands_still),
    Fault("slow by 2 s", is_slow, slow_way=True),
    Fault("read-only", takes_no_writes),
    Fault("out of memory", has_no_memory),
    Fault("scripts flushed", forgets_scripts),
    Fault("connections cut", cuts_connections, breaks=True),
    Fault("shard killed", shard_fails_over, "cluster", forgets=True, breaks=True),
    Fault("shard stands still", master_stands_still, "cluster", forgets=True),
)
