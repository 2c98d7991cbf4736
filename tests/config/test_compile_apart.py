"""The child process that compiles: its result, and every way in which it can end."""

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
    """A plan file with enough accounts for several pieces."""
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
    """A plan file that blocks its reader, because it is never written."""
    path = tmp_path / "pipe.yaml"
    os.mkfifo(path)
    return path


def children() -> set[int]:
    return {
        int(pid)
        for file in Path("/proc/self/task").glob("*/children")
        for pid in file.read_text().split()
    }


async def test_I7_compiling_apart_gives_the_same_book(path: Path) -> None:
    apart, here = await compile_apart(path), load(path)
    assert apart == here
    assert len(apart.accounts) == 504
    assert all(key.account is apart.accounts[key.account.id] for key in apart.keys.values())
    assert all(one.plan is apart.plans[plan] for (plan, _), one in apart.entitlements.items())


def test_a_serving_process_does_not_import_what_only_compilation_needs() -> None:
    command = [
        sys.executable,
        "-c",
        "import sys, sidecar.cli, sidecar.serve.app; print(*sys.modules)",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "sidecar.config.compile_apart" in loaded
    assert not {"yaml", "sidecar.config.loading", "sidecar.config.models"} & loaded


async def test_other_tasks_run_while_a_book_is_received(path: Path) -> None:
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


async def test_an_invalid_file_has_the_same_problems(path: Path) -> None:
    bad = path.with_name("bad.yaml")
    await asyncio.to_thread(bad.write_text, EXAMPLE.replace("5/s", "5ps").replace("/cycle", ""))
    with pytest.raises(ConfigError) as here:
        load(bad)
    with pytest.raises(ConfigError) as apart:
        await compile_apart(bad)
    assert apart.value.problems == here.value.problems


async def test_a_child_that_is_too_slow_is_killed(pipe: Path) -> None:
    before = children()
    with pytest.raises(
        ConfigError, match=r"it takes more than 0 s.*try again with SIGHUP or a restart"
    ):
        await compile_apart(pipe, timeout_s=0)
    assert children() <= before


async def test_a_cancelled_compilation_leaves_no_process(pipe: Path) -> None:
    before = children()
    compiling = asyncio.create_task(compile_apart(pipe))
    writer = await asyncio.to_thread(pipe.open, "wb", 0)  # returns when the child opens the pipe
    assert children() > before
    compiling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await compiling
    assert children() <= before
    with writer, pytest.raises(BrokenPipeError):
        writer.write(b"version: 1")


async def test_a_killed_child_is_a_problem(pipe: Path) -> None:
    before = children()
    compiling = asyncio.create_task(compile_apart(pipe))
    with await asyncio.to_thread(pipe.open, "wb"):
        [process] = children() - before
        os.kill(process, signal.SIGKILL)
        with pytest.raises(ConfigError, match=r"could not be compiled \(exit code -9"):
            await compiling


async def test_a_child_that_cannot_start_is_a_problem(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(ConfigError, match="cannot start a process: No such file"):
        await compile_apart(path)
