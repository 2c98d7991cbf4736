"""The process that compiles: what it hands over, and every way in which it may end."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.config.compile_apart import compile_apart
from sidecar.config.loading import load
from sidecar.errors import ConfigError

EXAMPLE = (Path(__file__).parents[2] / "examples" / "plans.yaml").read_text()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A plan file with so many accounts that they come in several pieces."""
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(500)]
    accounts = [
        f"  - {{id: c{number}, plan: pro, keys: [{{id: k1, sha256: {digest}}}]}}\n"
        for number, digest in enumerate(digests)
    ]
    path = tmp_path / "plans.yaml"
    path.write_text(EXAMPLE + "".join(accounts))
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A plan file that nobody ever writes: whoever reads it waits."""
    path = tmp_path / "pipe.yaml"
    os.mkfifo(path)
    return path


def children() -> set[int]:
    return {
        int(pid)
        for file in Path("/proc/self/task").glob("*/children")
        for pid in file.read_text().split()
    }


async def test_I7_what_is_compiled_apart_is_what_is_compiled_here(path: Path) -> None:
    apart, here = await compile_apart(path), load(path)
    assert apart == here
    assert len(apart.accounts) == 504
    assert all(key.account is apart.accounts[key.account.id] for key in apart.keys.values())
    assert all(one.plan is apart.plans[plan] for (plan, _), one in apart.entitlements.items())


def test_who_serves_does_not_load_what_only_the_compiling_needs() -> None:
    asked = [
        sys.executable,
        "-c",
        "import sys, sidecar.cli, sidecar.serve.app; print(*sys.modules)",
    ]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "sidecar.config.compile_apart" in loaded
    assert not {"yaml", "sidecar.config.loading", "sidecar.config.models"} & loaded


async def test_others_have_turns_while_a_book_is_handed_over(path: Path) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await compile_apart(path)
    counting.cancel()
    assert turns > 6, "three pieces of accounts, three of keys"


async def test_a_bad_file_has_the_problems_that_it_has_here(path: Path) -> None:
    bad = path.with_name("bad.yaml")
    await asyncio.to_thread(bad.write_text, EXAMPLE.replace("5/s", "5ps").replace("/cycle", ""))
    with pytest.raises(ConfigError) as here:
        load(bad)
    with pytest.raises(ConfigError) as apart:
        await compile_apart(bad)
    assert apart.value.problems == here.value.problems


async def test_a_process_that_is_too_slow_is_ended(pipe: Path) -> None:
    before = children()
    with pytest.raises(
        ConfigError, match=r"it takes more than 0 s.*try again .SIGHUP or a restart"
    ):
        await compile_apart(pipe, patience_s=0)
    assert children() <= before


async def test_who_is_cancelled_leaves_no_process(pipe: Path) -> None:
    before = children()
    compiling = asyncio.create_task(compile_apart(pipe))
    writer = await asyncio.to_thread(pipe.open, "wb", 0)  # returns when the process reads
    assert children() > before
    compiling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await compiling
    assert children() <= before
    with writer, pytest.raises(BrokenPipeError):
        writer.write(b"version: 1")


async def test_a_process_that_is_killed_is_a_problem(pipe: Path) -> None:
    before = children()
    compiling = asyncio.create_task(compile_apart(pipe))
    with await asyncio.to_thread(pipe.open, "wb"):
        [process] = children() - before
        os.kill(process, signal.SIGKILL)
        with pytest.raises(ConfigError, match=r"could not be compiled \(exit code -9"):
            await compiling


async def test_no_process_at_all_is_a_problem(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(ConfigError, match="no process could be started: No such file"):
        await compile_apart(path)
