"""A short soak: it holds on the product, fails by name when it does not, and leaves nothing."""

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
    """Where a run puts its files."""
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


@pytest.fixture
def soak(scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """A short one, begun."""
    with subprocess.Popen(
        [sys.executable, "-m", "loadtests.soak", "--seconds", "10"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as run:  # fmt: skip
        yield run
        run.kill()


def processes_in(directory: Path) -> list[str]:
    """Command lines of processes that have something to do with a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text()
            where = str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(directory) in command or where.startswith(str(directory)):
            found.append(command.replace("\0", " "))
    return found


@pytest.mark.timeout(2 * WITHIN_S)
def test_a_short_soak_holds_every_check_and_leaves_nothing(
    soak: subprocess.Popen[str], scratch: Path
) -> None:
    said, _ = soak.communicate(timeout=WITHIN_S)
    assert soak.returncode == 0, said
    assert "Every check holds." in said
    assert "BROKEN" not in said
    assert processes_in(scratch) == []
    assert list(scratch.iterdir()) == []


def test_ctrl_c_ends_a_soak_with_130_and_leaves_nothing(
    soak: subprocess.Popen[str], scratch: Path
) -> None:
    assert soak.stdout is not None
    assert soak.stdout.readline().startswith("Soaking for 10 s")
    assert processes_in(scratch)  # there is something that could be left
    soak.send_signal(signal.SIGINT)
    said, _ = soak.communicate(timeout=60)
    assert soak.returncode == 130, said
    assert said.endswith("Stopped; nothing is left running.\n")
    assert processes_in(scratch) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("seconds", ["9", "-1", "soon"])
def test_a_soak_too_short_to_tell_is_not_begun(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        arguments(["--seconds", seconds])
    assert "--seconds" in capsys.readouterr().err
