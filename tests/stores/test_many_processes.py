"""Eight processes use one account's limits, and some of them are killed.

Together they are granted exactly the limit, and refusals change nothing.
"""

import asyncio
import random
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis

from sidecar.core.answers import Hold
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim
from sidecar.stores import RedisLimitStore, keys
from sidecar.stores.scripts import read_state
from tests.support.stores.wire_ends import a_wire

PROCESSES = 8
AT_ONCE = 3  # requests in flight of one process
KILLED = 5
LIMIT, MORE, SLOTS = 600, 900, 6
STATE = keys.state("qs", "acme")

# Commands on its standard input: "spend" uses the quota up; "ask RATE|QUOTA|SLOTS" sends requests
# that are refused. It writes a line per granted request, before it settles it.
PROGRAM = textwrap.dedent("""
    import asyncio, os, sys
    import redis.asyncio
    from sidecar.core.answers import Hold
    from sidecar.core.kinds import ConcurrencyLimit, QuotaLimit, RateLimit
    from sidecar.core.model import Account, Claim
    from sidecar.errors import StoreUnavailable
    from sidecar.stores import RedisLimitStore, Wire

    url, path, quota, burst, slots, at_once = sys.argv[1:3] + [int(word) for word in sys.argv[3:]]
    ACME = Account("acme", "pro")
    DAY = 86_400_000_000
    LIMITS = {
        "QUOTA": QuotaLimit("monthly", "requests", quota, "month", quota),
        "RATE": RateLimit("slow", "requests", 1, DAY, burst, (1, 86_400)),
        "SLOTS": ConcurrencyLimit("in-flight", slots),
    }
    CLAIMS = tuple(Claim(limit, 1, False) for limit in LIMITS.values())
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def request(store, inside, number):
        hold = Hold(f"{os.getpid()}-{number}", 5_000_000)
        try:
            answer = await store.reserve(ACME, "k1", CLAIMS, hold=hold)
        except StoreUnavailable:
            return None
        if not answer.granted:
            return answer.used[0] < min(quota, burst) or None
        os.write(out, b"%d\\n" % os.getpid())
        await inside.sadd("inside", hold.id)
        if await inside.scard("inside") > slots:
            os.write(out, b"too many inside\\n")
        await inside.srem("inside", hold.id)
        store.settle(ACME, "k1", CLAIMS, hold.id)
        return True

    async def spend(store, inside):
        async def one_after_the_other(first):
            number = first
            while await request(store, inside, number):
                number += at_once
        await asyncio.gather(*map(one_after_the_other, range(at_once)))
        while store.settler.pending:
            await asyncio.sleep(0.01)

    async def refuse(store, which):
        # One limit is exceeded, another one is not; with an open reservation and without.
        cost = burst + 1 if which == "RATE" else quota + 1
        cases = [(Claim(LIMITS[which], cost, False), Claim(LIMITS[other], 1, False))
                 for other in ("QUOTA", "RATE") if other != which for _ in "12"]
        for number in range(30):
            hold = Hold(f"{os.getpid()}-{which}{number}", 3_000_000)
            for at, claims in enumerate(cases):
                open_hold = hold if at % 2 else None
                assert not (await store.reserve(ACME, "k1", claims, hold=open_hold)).granted

    async def main():
        wire = Wire(url, timeout_s=30)
        await wire.start()
        store = RedisLimitStore(wire)
        running = asyncio.ensure_future(store.settler.run())
        inside = redis.asyncio.Redis.from_url(url)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print("ready", flush=True)
        while words := (await reader.readline()).decode().split():
            await (spend(store, inside) if words[0] == "spend" else refuse(store, words[1]))
            print("done", flush=True)
        running.cancel()
        await inside.aclose()
        await wire.stop()

    asyncio.run(main())
""")


class Many:
    """Processes that wait for a command."""

    def __init__(self, url: str, path: Path, quota: int, burst: int) -> None:
        self._command = (sys.executable, "-c", PROGRAM, url, str(path), str(quota), str(burst),
                         str(SLOTS), str(AT_ONCE))  # fmt: skip
        self.running: list[asyncio.subprocess.Process] = []

    async def start(self) -> asyncio.subprocess.Process:
        one = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        self.running.append(one)
        await read_line(one, b"ready\n")
        return one

    async def kill(self, one: asyncio.subprocess.Process) -> None:
        self.running.remove(one)
        one.kill()
        await one.wait()

    async def run_all(self, word: bytes) -> None:
        for one in self.running:
            send(one, word)
        await asyncio.gather(*(read_line(one, b"done\n") for one in self.running))


def send(one: asyncio.subprocess.Process, word: bytes) -> None:
    assert one.stdin is not None
    one.stdin.write(word + b"\n")


async def read_line(one: asyncio.subprocess.Process, line: bytes) -> None:
    assert one.stdout is not None
    async with asyncio.timeout(90):
        assert await one.stdout.readline() == line


@asynccontextmanager
async def many(url: str, path: Path, quota: int = LIMIT, burst: int = MORE) -> AsyncIterator[Many]:
    those = Many(url, path, quota, burst)
    await asyncio.gather(*(those.start() for _ in range(PROCESSES)))
    try:
        yield those
    finally:
        for one in list(those.running):
            await those.kill(one)


@pytest.fixture
def client(valkey_url: str) -> "redis.Redis":
    return redis.Redis.from_url(valkey_url)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(("quota", "burst"), [(LIMIT, MORE), (MORE, LIMIT)])
async def test_I1_processes_of_which_some_are_killed_are_granted_exactly_the_limit(
    valkey_url: str, client: "redis.Redis", tmp_path: Path, quota: int, burst: int
) -> None:
    path, dice = tmp_path / "granted", random.Random(7)
    async with many(valkey_url, path, quota, burst) as those:
        for one in those.running:
            send(one, b"spend")
        for number in range(KILLED):
            async with asyncio.timeout(60):
                while len(lines(path)) < (number + 1) * LIMIT // (KILLED + 2):
                    await asyncio.sleep(0.001)
            victim = dice.choice(those.running)
            await those.kill(victim)
            for name in client.smembers("inside"):
                if name.startswith(b"%d-" % victim.pid):
                    client.srem("inside", name)
            send(await those.start(), b"spend")
        await asyncio.gather(*(read_line(one, b"done\n") for one in those.running))
    granted = lines(path)
    assert "too many inside" not in granted
    fields: dict[bytes, bytes] = client.hgetall(STATE)  # type: ignore[assignment]
    assert read_state(fields[b"q/monthly"])[0] == LIMIT
    assert -(-read_state(fields[b"r/slow"])[0] // MICRO) == LIMIT
    # A killed process may have been granted requests that it did not write.
    assert LIMIT - KILLED * AT_ONCE <= len(granted) <= LIMIT
    still_open = [name for name in fields if name.startswith(b"o/")]
    assert len(still_open) <= KILLED * AT_ONCE
    client.close()


@pytest.mark.parametrize("which", ["QUOTA", "RATE", "SLOTS"])
async def test_I2_refusals_of_many_processes_change_no_byte(
    valkey_url: str, client: "redis.Redis", tmp_path: Path, which: str
) -> None:
    limits: tuple[Limit, ...] = (
        QuotaLimit("monthly", "requests", LIMIT, "month", LIMIT),
        RateLimit("slow", "requests", 1, 86_400 * MICRO, MORE, (1, 86_400)),
        ConcurrencyLimit("in-flight", SLOTS),
    )
    claims = tuple(Claim(limit, 1, forced=False) for limit in limits)
    async with many(valkey_url, tmp_path / "granted") as those, a_wire(valkey_url) as wire:
        store = RedisLimitStore(wire)
        for number in range(SLOTS):
            hold = Hold(f"h{number}", 3_600 * MICRO)
            assert (await store.reserve(Account("acme", "pro"), "k1", claims, hold=hold)).granted
        before = everything(client)
        await those.run_all(f"ask {which}".encode())
        assert everything(client) == before
    client.close()


def everything(client: "redis.Redis") -> dict[bytes, tuple[object, object]]:
    """The bytes and the expiry of each Redis key."""
    return {name: (client.dump(name), client.pexpiretime(name)) for name in client.scan_iter()}
