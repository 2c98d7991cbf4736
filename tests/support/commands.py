"""Runs the `sidecar` command in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

SIDECAR = Path(sys.executable).parent / "sidecar"
WITHIN_S = 30
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Spawn = Callable[..., "subprocess.Popen[str]"]

# Its children have the modules of the command line already, which take most of a command's time.
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["sidecar.cli", "sidecar.stores.admin", "sidecar.config.loading"])


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of the tests without SIDECAR_ variables and drain delay, plus `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    return kept | {"COLUMNS": "100", "SIDECAR_DRAIN_DELAY_S": "0"} | more


@pytest.fixture
def environment() -> Callable[..., dict[str, str]]:
    """`environment(NAME="…")`: the environment for a process that a test starts."""
    return clean_environment


@pytest.fixture
def sidecar(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`sidecar("check", "plans.yaml", SIDECAR_X="…")` returns the finished process."""
    outputs = tmp_path_factory.mktemp("outputs")

    def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [str(SIDECAR), *map(str, arguments)]
        process = _FORKS.Process(
            target=_main, args=(command, tmp_path, clean_environment(**environment), outputs)
        )
        process.start()
        process.join(WITHIN_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, WITHIN_S)
        out, errors = ((outputs / name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(command, process.exitcode, out, errors)

    return run


def _main(command: list[str], directory: Path, environment: dict[str, str], outputs: Path) -> None:
    """Run the program as its script does, with files as its outputs."""
    from sidecar.cli import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with (outputs / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = command
    sys.exit(main())


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Like `sidecar`, but returns the running process, which is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: object, stdout: int = subprocess.PIPE, **environment: str
    ) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [str(SIDECAR), *map(str, arguments)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=clean_environment(**environment),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
