"""Runs the `sidecar` command in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SIDECAR = Path(sys.executable).parent / "sidecar"
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Spawn = Callable[..., "subprocess.Popen[str]"]


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of the tests without SIDECAR_ variables, plus `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    return kept | {"COLUMNS": "100"} | more


@pytest.fixture
def environment() -> Callable[..., dict[str, str]]:
    """`environment(NAME="…")`: the environment for a process that a test starts."""
    return clean_environment


@pytest.fixture
def sidecar(tmp_path: Path) -> Run:
    """`sidecar("check", "plans.yaml", SIDECAR_X="…")` returns the finished process."""

    def run(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(SIDECAR), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=30,
            cwd=tmp_path,
            env=clean_environment(**environment),
            check=False,
        )

    return run


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
