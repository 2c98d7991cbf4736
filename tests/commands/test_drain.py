"""The preStop hook of the image, which announces the shutdown to a sidecar."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def hook(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sidecar.commands.drain", *map(str, arguments)],
        cwd="/", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_the_hook_announces_the_shutdown_to_a_serving_sidecar(
    spawn: Any, environment: Any, tmp_path: Path
) -> None:
    process = spawn(
        "serve",
        SIDECAR_CONTROL="127.0.0.1:0", SIDECAR_LISTEN="127.0.0.1:0",
        SIDECAR_PLANS=str(ROOT / "examples" / "plans.yaml"),
        SIDECAR_UPSTREAM="http://127.0.0.1:1", SIDECAR_REDIS="redis://127.0.0.1:1/0",
        SIDECAR_SPOOL=str(tmp_path / "spool"),
    )  # fmt: skip
    while '"sidecar_serving"' not in (line := process.stderr.readline()):
        assert line, "serve ended before it served"
    assert hook(process.pid) == (0, "")
    while '"drain_announced"' not in (line := process.stderr.readline()):
        assert line, "serve ended before it announced its end"
    assert process.poll() is None


def test_the_hook_signals_only_a_sidecar() -> None:
    code, reason = hook(os.getpid())
    assert (code, reason) == (1, f"process {os.getpid()}: it is not a sidecar\n")


def test_the_hook_reports_a_process_that_does_not_exist() -> None:
    beyond = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    assert hook(beyond) == (1, f"process {beyond}: No such file or directory\n")


@pytest.mark.parametrize("wrong", [("x",), (1, 2)])
def test_a_wrong_argument_is_a_usage_error(wrong: tuple[object, ...]) -> None:
    assert hook(*wrong) == (2, "usage: python -m sidecar.commands.drain [PID]\n")
