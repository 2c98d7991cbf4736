"""Sidecars that reconnect one after the other, or die or restart during an outage."""

import asyncio
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from sidecar.core.answers import Hold
from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.core.shares import NEVER_SEEN
from sidecar.files import Files
from sidecar.stores.local import mode, shares
from sidecar.stores.local.journal import Journal
from sidecar.stores.redis import RedisLimitStore
from tests.support.stores.local_stage import (
    ACME,
    LONG,
    Sidecar,
    a_quota,
    a_sidecar,
    new_id,
    until_all_are_known,
    used,
)
from tests.support.stores.wire_ends import Cable, Server, a_cable, a_server, a_wire

HERE = Path(__file__).parent
QUOTA = a_quota(100)
ONE = (Claim(QUOTA, 1, False),)
NOTHING = (Claim(QUOTA, 0, False),)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path) as server:
        yield server


@asynccontextmanager
async def two_cables(server: Server, journal: Path) -> AsyncIterator[list[tuple[Sidecar, Cable]]]:
    """Two sidecars, each with its connection to Redis, that know 40 of 100 units as used."""
    async with AsyncExitStack() as stack:
        both = []
        for _ in range(2):
            cable, port = await stack.enter_async_context(a_cable(server.port))
            url = f"redis://127.0.0.1:{port}/0"
            both.append((await stack.enter_async_context(a_sidecar(url, journal)), cable))
        sidecars = [one for one, _ in both]
        await until_all_are_known(sidecars)
        assert await sidecars[0].requests(40, *ONE) == 40
        for one in sidecars:
            assert await one.request(*NOTHING)
            one.granted = 0
        yield both


async def test_I1_the_first_sidecar_back_does_not_grant_what_the_other_has_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "PATIENCE_SECONDS", 60)
    async with two_cables(server, tmp_path / "journal") as ((first, one), (second, other)):
        for cable in (one, other):
            cable.cut()
        for sidecar in (first, second):
            await sidecar.until_local()
        assert await first.requests(10, *ONE) == 10
        assert await second.requests(40, *ONE) == 30
        one.mend()
        async with asyncio.timeout(20):
            while not first.store.mode.redis_decides_too:  # its journal is charged
                await asyncio.sleep(0.01)
        assert used(server.url, QUOTA) == 50
        assert await first.requests(20, *ONE) == 20  # the rest of its share; Redis checks it, too
        assert not first.answers[-1].local
        assert first.answers[-1].used == (70,)
        for _ in range(5):
            assert await first.request(*ONE) is None  # though Redis would allow it
            await asyncio.sleep(mode.TURN_SECONDS)
        assert first.store.mode.all_local
        other.mend()
        for sidecar in (first, second):
            await sidecar.until_back()
        assert used(server.url, QUOTA) == 100
        assert await first.request(*ONE) is False


async def test_a_sidecar_waits_for_the_others_for_a_bounded_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "PATIENCE_SECONDS", 0.5)
    async with two_cables(server, tmp_path / "journal") as ((first, one), (second, other)):
        for cable in (one, other):
            cable.cut()
        for sidecar in (first, second):
            await sidecar.until_local()
            assert await sidecar.requests(40, *ONE) == 30
        one.mend()
        await first.until_back()
        assert await first.requests(40, *ONE) == 30  # Redis does not know what the second has used
        other.mend()
        await second.until_back()
        assert used(server.url, QUOTA) == 130  # one share more, and it is charged
        assert await first.request(*ONE) is False


async def test_I2_a_request_that_redis_refuses_uses_nothing_of_the_local_share(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "PATIENCE_SECONDS", 60)
    async with two_cables(server, tmp_path / "journal") as ((first, one), (second, other)):
        for cable in (one, other):
            cable.cut()
        for sidecar in (first, second):
            await sidecar.until_local()
        one.mend()
        async with asyncio.timeout(20):
            while not first.store.mode.redis_decides_too:
                await asyncio.sleep(0.01)
        async with a_wire(server.url) as wire:
            redis = RedisLimitStore(wire)
            for _ in range(60):  # all that is left in Redis
                assert (await redis.reserve(ACME, "k1", ONE)).granted
        for _ in range(35):  # more than the local share of 30
            assert await first.request(*ONE, hold=Hold(new_id(), LONG)) is False
            assert not first.answers[-1].local
        assert first.store.mode.all_local
        other.mend()
        for sidecar in (first, second):
            await sidecar.until_back()


async def test_I1_a_sidecar_that_loses_redis_again_waits_for_the_others_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "PATIENCE_SECONDS", 60)
    async with two_cables(server, tmp_path / "journal") as ((first, one), (second, other)):
        for cable in (one, other):
            cable.cut()
        for sidecar in (first, second):
            await sidecar.until_local()
        outage = first.store.mode.outage
        assert outage is not None
        for _ in range(2):
            assert outage.available_since is None  # from then on, it waits for the second one
            one.mend()
            async with asyncio.timeout(20):
                while outage.available_since is None:
                    await asyncio.sleep(0.01)
            one.cut()
            async with asyncio.timeout(20):
                while outage.available_since is not None:
                    await asyncio.sleep(0.01)
        for cable in (one, other):
            cable.mend()
        for sidecar in (first, second):
            await sidecar.until_back()


async def test_a_sidecar_that_loses_its_connection_uses_at_most_its_share(
    server: Server, tmp_path: Path
) -> None:
    async with two_cables(server, tmp_path / "journal") as ((first, _), (second, other)):
        other.cut()
        await second.until_local()
        assert await second.requests(40, *ONE) == 30
        assert await first.requests(40, *ONE) == 40  # it does not know of the outage
        other.mend()
        await second.until_back()
        assert used(server.url, QUOTA) == 110
        assert [await one.request(*ONE) for one in (first, second)] == [False, False]


async def test_I1_an_account_with_uncharged_requests_does_not_return_to_redis(
    server: Server, tmp_path: Path
) -> None:
    """As after a time in which one shard of a cluster does not answer."""
    async with a_sidecar(server.url, tmp_path / "journal") as one:
        assert await one.request(*NOTHING)
        server.pause()
        await one.until_local()
        assert await one.requests(3, *ONE) == 3
        one.store.mode._return_accounts()
        assert one.store.mode._local.accounts == [one.account.id]
        server.go_on()
        await one.until_back()
    assert used(server.url, QUOTA) == 3


async def test_a_sidecar_that_has_left_gets_no_share(server: Server, tmp_path: Path) -> None:
    async with a_sidecar(server.url, tmp_path / "journal") as first:
        async with a_sidecar(server.url, tmp_path / "journal") as second:
            await until_all_are_known([first, second])
        first.store.mode.heartbeat._falls_after_us = 0  # as if five seconds had passed
        await until_all_are_known([first])
        assert await first.request(*NOTHING)
        server.pause()
        await first.until_local()
        assert await first.requests(110, *ONE) == 100


PROGRAM = textwrap.dedent("""
    import asyncio, pathlib, sys
    from tests.support.stores.local_stage import a_quota, a_sidecar
    from sidecar.core.model import Claim
    from sidecar import logs

    ONE = Claim(a_quota(100), 1, False)

    async def main():
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        async with a_sidecar(sys.argv[1], pathlib.Path(sys.argv[2])) as one:
            while words := (await reader.readline()).decode().split():
                if words[0] == "snapshot":
                    await one.request(Claim(a_quota(100), 0, False))
                elif words[0] == "local":
                    await one.until_local()
                elif words[0] == "back":
                    await one.until_back()
                granted = await one.requests(int(words[1]), ONE) if words[0] == "send" else 0
                await one.until_written()
                print(granted, one.store.mode.heartbeat.alive, flush=True)

    logs.configure("error")
    asyncio.run(main())
""")


class Child:
    """A sidecar in another process."""

    def __init__(self, url: str, journal: Path) -> None:
        self._url = url
        self._journal = journal

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, self._url, str(self._journal),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": f"{HERE}:{HERE.parent}"},
        )  # fmt: skip

    async def run(self, *words: str) -> tuple[int, int]:
        """Run a command of PROGRAM; the granted requests, and the sidecars that it knows of."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        async with asyncio.timeout(60):
            granted, alive = (await self._process.stdout.readline()).split()
        return int(granted), int(alive)

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(60):
            assert await self._process.wait() == 0


async def test_I5_a_sidecar_that_is_killed_during_an_outage_is_charged_completely(
    server: Server, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    children = [Child(server.url, journal), Child(server.url, journal)]
    for child in children:
        await child.start()
    first, second = children
    async with asyncio.timeout(60):
        while [(await child.run("nothing"))[1] for child in children] != [2, 2]:
            await asyncio.sleep(0.01)
    assert (await first.run("send", "40"))[0] == 40
    for child in children:
        await child.run("snapshot")
    server.pause()
    for child in children:
        await child.run("local")
    assert (await first.run("send", "10"))[0] == 10
    assert (await second.run("send", "50"))[0] == 30
    await first.kill()
    await first.start()
    assert (await first.run("send", "50"))[0] == 20  # the rest of its share
    await first.kill()
    await first.start()
    assert (await first.run("send", "50"))[0] == 0
    server.go_on()
    for child in children:
        await child.run("back")
    assert used(server.url, QUOTA) == 100
    assert [(await child.run("send", "1"))[0] for child in children] == [0, 0]
    for child in children:
        await child.end()
    assert list(journal.iterdir()) == []


async def test_I5_charging_a_journal_again_changes_nothing(server: Server, tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    copy = tmp_path / "copy.journal"
    async with a_sidecar(server.url, directory) as one:
        await until_all_are_known([one])
        assert await one.request(*NOTHING)
        server.pause()
        await one.until_local()
        assert await one.requests(30, *ONE) == 30
        await one.until_written()
        [journal] = directory.glob("*.journal")
        shutil.copy(journal, copy)
        server.go_on()
        await one.until_back()
    assert used(server.url, QUOTA) == 30
    for _ in range(2):
        shutil.copy(copy, directory / copy.name)
        async with a_sidecar(server.url, directory) as one:
            await one.until_back()
            assert not list(directory.glob("*.journal"))
        assert used(server.url, QUOTA) == 30


async def test_I9_an_abandoned_journal_is_charged_though_local_mode_has_no_room_for_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "MOST_LIMITS", 1)
    accounts = [Account(name, "pro") for name in ("a", "b", "c")]
    journal = Journal(tmp_path, Files(), identity=new_id(), commit_window_s=0.001)
    for account in accounts:
        now_us = time.time_ns() // 1000
        journal.add(account, "k1", ONE, now_us, sidecars=1, snapshot_of=lambda _: NEVER_SEEN)
    await journal.close()
    async with a_sidecar(server.url, tmp_path) as one:
        await one.until_back()
    assert [used(server.url, QUOTA, account) for account in accounts] == [1, 1, 1]


async def test_a_running_process_charges_the_journal_of_a_dead_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "FIND_SECONDS", 0.05)
    monkeypatch.setattr(mode, "BEAT_SECONDS", 0.05)
    directory = tmp_path / "journal"
    async with a_sidecar(server.url, directory) as running:
        child = Child(server.url, directory)
        await child.start()
        await child.run("snapshot")
        server.pause()
        await child.run("local")
        granted, _ = await child.run("send", "20")
        await child.kill()
        server.go_on()
        async with asyncio.timeout(60):
            while used(server.url, QUOTA) != granted:
                await asyncio.sleep(0.01)
        assert granted == 20
        await running.until_back()
    assert not list(directory.glob("*.journal"))


async def test_I11_a_refunded_request_in_local_mode_has_reported_no_overage(
    server: Server, tmp_path: Path
) -> None:
    quota = QuotaLimit("monthly", "requests", 1, "month", 100)
    one_unit = Claim(quota, 1, forced=False)
    async with a_cable(server.port) as (cable, port):
        url = f"redis://127.0.0.1:{port}/0"
        async with a_sidecar(url, tmp_path / "journal") as sidecar:
            assert await sidecar.request(one_unit)
            cable.cut()
            await sidecar.until_local()
            hold = Hold(new_id(), LONG)
            assert await sidecar.request(one_unit, hold=hold)
            assert sidecar.answers[-1].details[0].overage == 1
            nothing = (Claim(quota, 0, forced=False),)
            sidecar.store.settle(ACME, "k1", nothing, hold.id, billed=False)
            cable.mend()
            await sidecar.until_back()
            assert await sidecar.request(one_unit)
            assert sidecar.answers[-1].used == (2,)
            assert sidecar.answers[-1].details[0].overage == 1
