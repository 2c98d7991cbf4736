"""The faults of Redis. Each lasts until its coroutine returns."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from loadtests.faults.redis_servers import Single, ThreeShards
from loadtests.faults.slow_link import SlowLink

Topology = Literal["durable", "forgetful", "cluster"]
Redis = Single | ThreeShards
EMPTY_SECONDS: Final = 1.0
LATE_SECONDS: Final = 2.0
NO_MASTER_PORT: Final = 9
CUTS_PER_SECOND: Final = 4


@dataclass(slots=True)
class FaultTarget:
    """The Redis and the link that a fault changes.

    `cuts`: how often connections broke with requests in flight.
    """

    redis: Redis
    link: SlowLink
    seconds: float
    cuts: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and its effects.

    `forgets`: Redis may come back with less than it had. `breaks`: connections break, so requests
    in flight may be charged without an event. `slow_link`: the sidecars reach Redis through
    `target.link`.
    """

    name: str
    inject: Callable[[FaultTarget], Awaitable[None]]
    topology: Topology = "durable"
    forgets: bool = False
    breaks: bool = False
    slow_link: bool = False


async def kill(target: FaultTarget) -> None:
    """Kill Redis, and start it again with its data."""
    target.cuts += 1
    target.redis.server.kill()
    await asyncio.sleep(target.seconds)
    await asyncio.to_thread(target.redis.server.start)


async def restart_empty(target: FaultTarget) -> None:
    """Kill Redis, and start it again after 1 s without its data."""
    target.cuts += 1
    target.redis.server.kill()
    await asyncio.sleep(EMPTY_SECONDS)
    await asyncio.to_thread(target.redis.server.start)
    await asyncio.sleep(target.seconds)


async def stop(target: FaultTarget) -> None:
    """Stop the process with SIGSTOP, and continue it with SIGCONT."""
    target.redis.server.send(signal.SIGSTOP)
    await asyncio.sleep(target.seconds)
    target.redis.server.send(signal.SIGCONT)


async def delay_replies(target: FaultTarget) -> None:
    """Delay each reply by 2 s."""
    target.link.delay = LATE_SECONDS
    await asyncio.sleep(target.seconds)
    target.link.delay = 0.0


async def make_read_only(target: FaultTarget) -> None:
    """Make Redis a replica of a master that does not exist."""
    server = target.redis.server
    await asyncio.to_thread(server.execute, "REPLICAOF", "127.0.0.1", NO_MASTER_PORT)
    await asyncio.sleep(target.seconds)
    await asyncio.to_thread(server.execute, "REPLICAOF", "NO", "ONE")


async def fill_memory(target: FaultTarget) -> None:
    """Set `maxmemory 1` with `noeviction`."""
    server = target.redis.server
    await asyncio.to_thread(server.execute, "CONFIG", "SET", "maxmemory", 1)
    await asyncio.sleep(target.seconds)
    await asyncio.to_thread(server.execute, "CONFIG", "SET", "maxmemory", 0)


async def flush_scripts(target: FaultTarget) -> None:
    """Run SCRIPT FLUSH several times per second."""
    for _ in range(int(target.seconds * CUTS_PER_SECOND)):
        await asyncio.to_thread(target.redis.server.execute, "SCRIPT", "FLUSH")
        await asyncio.sleep(1 / CUTS_PER_SECOND)


async def cut_connections(target: FaultTarget) -> None:
    """Close the connections of all clients several times per second."""
    for _ in range(int(target.seconds * CUTS_PER_SECOND)):
        target.cuts += 1
        await asyncio.to_thread(target.redis.server.execute, "CLIENT", "KILL", "TYPE", "normal")
        await asyncio.sleep(1 / CUTS_PER_SECOND)


async def kill_shard(target: FaultTarget) -> None:
    """Kill a master, wait for its replica to take over, and start it again as a replica."""
    target.cuts += 1
    target.redis.server.kill()
    await _wait_for_failover(target)
    await asyncio.to_thread(target.redis.server.start)
    await asyncio.sleep(target.seconds / 2)


async def stop_master(target: FaultTarget) -> None:
    """Stop a master until its replica has taken over, then continue it.

    For a moment it still believes that it is the master.
    """
    target.redis.server.send(signal.SIGSTOP)
    await _wait_for_failover(target)
    await asyncio.sleep(target.seconds / 2)
    target.redis.server.send(signal.SIGCONT)


async def _wait_for_failover(target: FaultTarget) -> None:
    cluster = target.redis
    assert isinstance(cluster, ThreeShards)
    await asyncio.to_thread(cluster.wait_for_failover)


FAULTS: Final = (
    Fault("kill", kill, breaks=True),
    Fault("starts empty", restart_empty, "forgetful", forgets=True, breaks=True),
    Fault("stopped", stop),
    Fault("slow by 2 s", delay_replies, slow_link=True),
    Fault("read-only", make_read_only),
    Fault("out of memory", fill_memory),
    Fault("scripts flushed", flush_scripts),
    Fault("connections cut", cut_connections, breaks=True),
    Fault("shard kill", kill_shard, "cluster", forgets=True, breaks=True),
    Fault("shard stopped", stop_master, "cluster", forgets=True),
)
