"""Sidecars that find Redis again one after the other, die, or are started anew meanwhile."""

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

from sidecar.core.model import Account, Claim
from sidecar.core.shares import NEVER_SEEN
from sidecar.files import Files
from sidecar.stores.local import mode, shares
from sidecar.stores.local.journal import Journal
from tests.support.stores.local_stage import (
    Sidecar,
    a_quota,
    a_sidecar,
    all_know_each_other,
    new_id,
    used,
)
from tests.support.stores.wire_ends import Cable, Server, a_cable, a_server

HERE = Path(__file__).parent
QUOTA = a_quota(100)
CALL = (Claim(QUOTA, 1, False),)
LOOK = (Claim(QUOTA, 0, False),)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with a_server(tmp_path) as server:
        yield server


@asynccontextmanager
async def two_cables(server: Server, journal: Path) -> AsyncIterator[list[tuple[Sidecar, Cable]]]:
    """Two sidecars, each with a way to Redis of its own, that have seen 40 of 100 used."""
    async with AsyncExitStack() as stack:
        both = []
        for _ in range(2):
            cable, port = await stack.enter_async_context(a_cable(server.port))
            url = f"redis://127.0.0.1:{port}/0"
            both.append((await stack.enter_async_context(a_sidecar(url, journal)), cable))
        sidecars = [one for one, _ in both]
        await all_know_each_other(sidecars)
        assert await sidecars[0].calls(40, *CALL) == 40
        for one in sidecars:
            assert await one.call(*LOOK)
            one.granted = 0
        yield both


async def test_I1_who_is_back_first_does_not_give_out_what_the_other_has_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "PATIENCE_SECONDS", 60)
    async with two_cables(server, tmp_path / "journal") as ((first, one), (second, other)):
        for cable in (one, other):
            cable.cut()
        for sidecar in (first, second):
            await sidecar.until_alone()
        assert await first.calls(10, *CALL) == 10
        assert await second.calls(40, *CALL) == 30
        one.mend()
        async with asyncio.timeout(20):
            while not first.store.keeper.asks_both:  # what the first one let pass is charged
                await asyncio.sleep(0.01)
        assert used(server.url, QUOTA) == 50
        assert await first.calls(20, *CALL) == 20  # the rest of its share, and Redis counts it
        assert not first.answers[-1].alone
        assert first.answers[-1].used == (70,)
        for _ in range(5):
            assert await first.call(*CALL) is None  # though Redis would have said yes
            await asyncio.sleep(mode.TURN_SECONDS)
        assert first.store.keeper.away
        other.mend()
        for sidecar in (first, second):
            await sidecar.until_back()
        assert used(server.url, QUOTA) == 100
        assert await first.call(*CALL) is False


async def test_who_is_back_does_not_wait_for_ever(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "PATIENCE_SECONDS", 0.5)
    async with two_cables(server, tmp_path / "journal") as ((first, one), (second, other)):
        for cable in (one, other):
            cable.cut()
        for sidecar in (first, second):
            await sidecar.until_alone()
            assert await sidecar.calls(40, *CALL) == 30
        one.mend()
        await first.until_back()
        assert await first.calls(40, *CALL) == 30  # what the second has used Redis does not know
        other.mend()
        await second.until_back()
        assert used(server.url, QUOTA) == 130  # one share more, and it is recorded
        assert await first.call(*CALL) is False


async def test_a_sidecar_that_alone_lost_redis_uses_its_share_at_most(
    server: Server, tmp_path: Path
) -> None:
    async with two_cables(server, tmp_path / "journal") as ((first, _), (second, other)):
        other.cut()
        await second.until_alone()
        assert await second.calls(40, *CALL) == 30
        assert await first.calls(40, *CALL) == 40  # nobody tells it
        other.mend()
        await second.until_back()
        assert used(server.url, QUOTA) == 110
        assert [await one.call(*CALL) for one in (first, second)] == [False, False]


async def test_a_sidecar_that_leaves_is_no_part_of_the_division(
    server: Server, tmp_path: Path
) -> None:
    async with a_sidecar(server.url, tmp_path / "journal") as first:
        async with a_sidecar(server.url, tmp_path / "journal") as second:
            await all_know_each_other([first, second])
        first.store.keeper.heart._until_us = 0  # as when five seconds have passed
        await all_know_each_other([first])
        assert await first.call(*LOOK)
        server.pause()
        await first.until_alone()
        assert await first.calls(110, *CALL) == 100


PROGRAM = textwrap.dedent("""
    import asyncio, pathlib, sys
    from tests.support.stores.local_stage import a_quota, a_sidecar
    from sidecar.core.model import Claim
    from sidecar import logs

    CALL = Claim(a_quota(100), 1, False)

    async def main():
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        async with a_sidecar(sys.argv[1], pathlib.Path(sys.argv[2])) as one:
            while words := (await reader.readline()).decode().split():
                if words[0] == "look":
                    await one.call(Claim(a_quota(100), 0, False))
                elif words[0] == "alone":
                    await one.until_alone()
                elif words[0] == "back":
                    await one.until_back()
                passed = await one.calls(int(words[1]), CALL) if words[0] == "call" else 0
                await one.until_written()
                print(passed, one.store.keeper.heart.alive, flush=True)

    logs.configure("error")
    asyncio.run(main())
""")


class Child:
    """A sidecar in a process of its own."""

    def __init__(self, url: str, journal: Path) -> None:
        self._url = url
        self._journal = journal

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, self._url, str(self._journal),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": f"{HERE}:{HERE.parent}"},
        )  # fmt: skip

    async def does(self, *words: str) -> tuple[int, int]:
        """How many calls passed, and how many sidecars it knows of."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        async with asyncio.timeout(60):
            passed, alive = (await self._process.stdout.readline()).split()
        return int(passed), int(alive)

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(60):
            assert await self._process.wait() == 0


async def test_I5_a_sidecar_that_is_killed_meanwhile_is_charged_for_all_it_let_pass(
    server: Server, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    children = [Child(server.url, journal), Child(server.url, journal)]
    for child in children:
        await child.start()
    first, second = children
    async with asyncio.timeout(60):
        while [(await child.does("nothing"))[1] for child in children] != [2, 2]:
            await asyncio.sleep(0.01)
    assert (await first.does("call", "40"))[0] == 40
    for child in children:
        await child.does("look")
    server.pause()
    for child in children:
        await child.does("alone")
    assert (await first.does("call", "10"))[0] == 10
    assert (await second.does("call", "50"))[0] == 30
    await first.kill()
    await first.start()
    assert (await first.does("call", "50"))[0] == 20  # what was left of its share
    await first.kill()
    await first.start()
    assert (await first.does("call", "50"))[0] == 0
    server.go_on()
    for child in children:
        await child.does("back")
    assert used(server.url, QUOTA) == 100
    assert [(await child.does("call", "1"))[0] for child in children] == [0, 0]
    for child in children:
        await child.end()
    assert list(journal.iterdir()) == []


async def test_I5_a_journal_that_is_charged_again_changes_nothing(
    server: Server, tmp_path: Path
) -> None:
    directory = tmp_path / "journal"
    kept = tmp_path / "kept.journal"
    async with a_sidecar(server.url, directory) as one:
        await all_know_each_other([one])
        assert await one.call(*LOOK)
        server.pause()
        await one.until_alone()
        assert await one.calls(30, *CALL) == 30
        await one.until_written()
        [journal] = directory.glob("*.journal")
        shutil.copy(journal, kept)
        server.go_on()
        await one.until_back()
    assert used(server.url, QUOTA) == 30
    for _ in range(2):
        shutil.copy(kept, directory / kept.name)
        async with a_sidecar(server.url, directory) as one:
            await one.until_back()
            assert not list(directory.glob("*.journal"))
        assert used(server.url, QUOTA) == 30


async def test_I9_what_a_former_process_left_is_charged_though_there_is_no_room_to_count_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "MOST_LIMITS", 1)
    accounts = [Account(name, "pro") for name in ("a", "b", "c")]
    journal = Journal(tmp_path, Files(), identity=new_id(), commit_window_s=0.001)
    for account in accounts:
        now_us = time.time_ns() // 1000
        journal.add(account, "k1", CALL, now_us, sidecars=1, look=lambda _: NEVER_SEEN)
    await journal.close()
    async with a_sidecar(server.url, tmp_path) as one:
        await one.until_back()
    assert [used(server.url, QUOTA, account) for account in accounts] == [1, 1, 1]


async def test_a_journal_of_a_dead_process_is_charged_by_one_that_lives(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(mode, "BEAT_SECONDS", 0.05)
    directory = tmp_path / "journal"
    async with a_sidecar(server.url, directory) as living:
        child = Child(server.url, directory)
        await child.start()
        await child.does("look")
        server.pause()
        await child.does("alone")
        passed, _ = await child.does("call", "20")
        await child.kill()
        server.go_on()
        async with asyncio.timeout(60):
            while used(server.url, QUOTA) != passed:
                await asyncio.sleep(0.01)
        assert passed == 20
        await living.until_back()
    assert not list(directory.glob("*.journal"))
