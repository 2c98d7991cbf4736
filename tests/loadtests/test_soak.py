"""A short soak: checks, exit codes and cleanup."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.soak.__main__ import arguments

ROOT = Path(__file__).parents[2]
WITHIN_S = 110


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for the files of a run."""
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


@pytest.fixture
def soak(scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """A running soak of 10 s."""
    with subprocess.Popen(
        [sys.executable, "-m", "loadtests.soak", "--seconds", "10"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as run:  # fmt: skip
        yield run
        run.kill()


def processes_in(directory: Path) -> list[str]:
    """Command lines of processes that use a directory."""
    commands = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text()
            where = str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(directory) in command or where.startswith(str(directory)):
            commands.append(command.replace("\0", " "))
    return commands


@pytest.mark.timeout(2 * WITHIN_S)
def test_a_short_soak_passes_every_check_and_leaves_nothing_behind(
    soak: subprocess.Popen[str], scratch: Path
) -> None:
    output, _ = soak.communicate(timeout=WITHIN_S)
    assert soak.returncode == 0, output
    assert "Every check holds." in output
    assert "BROKEN" not in output
    assert processes_in(scratch) == []
    assert list(scratch.iterdir()) == []


def test_ctrl_c_ends_a_soak_with_130_and_leaves_nothing_behind(
    soak: subprocess.Popen[str], scratch: Path
) -> None:
    assert soak.stdout is not None
    assert soak.stdout.readline().startswith("Soaking for 10 s")
    assert processes_in(scratch)  # processes that could be left behind
    soak.send_signal(signal.SIGINT)
    output, _ = soak.communicate(timeout=60)
    assert soak.returncode == 130, output
    assert output.endswith("Stopped; nothing is left running.\n")
    assert processes_in(scratch) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("seconds", ["9", "-1", "soon"])
def test_a_soak_shorter_than_10_s_is_refused(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(["--seconds", seconds])
    assert "--seconds" in capsys.readouterr().err
