"""`make demo` on a terminal, as the README asks for it: Ctrl-C ends it, and ends it well."""

import os
import pty
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.valkey import free_port

ROOT = Path(__file__).parents[2]
MADE = ROOT / ".venv" / ".demo-ready"
CTRL_C = b"\x03"

pytestmark = [
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    pytest.mark.skipif(not MADE.exists(), reason="the environment was not made by make"),
]


@dataclass
class Terminal:
    """A command that has a terminal of its own; what it prints is in `seen`."""

    pid: int
    fd: int
    seen: str = ""
    started: set[int] = field(default_factory=set)  # everything below it

    def until(self, text: str) -> None:
        """Read until this was printed."""
        while text not in self.seen:
            self.seen += os.read(self.fd, 65_536).decode(errors="replace")
        self.started = below(self.pid)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.fd, keys)

    def end(self) -> int:
        """Read all the rest; returns the exit code, negative for a signal."""
        try:
            while data := os.read(self.fd, 65_536):
                self.seen += data.decode(errors="replace")
        except OSError:  # nobody has the terminal open any more
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def below(pid: int) -> set[int]:
    """All processes that this one started, and those that they started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children}.union(*(below(int(child)) for child in children))


def ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody has asked about is too."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def ends(pid: int) -> bool:
    """Whether a process that is not our child ends in time."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 20.0)[0])
    finally:
        os.close(watched)


@pytest.fixture
def made(environment: Any) -> Iterator[Terminal]:
    """`make demo` on two free ports. The environment is taken as it is: no installing here."""
    flags = f"--listen 127.0.0.1:{free_port()} --control 127.0.0.1:{free_port()}"
    command = ["make", "-o", str(MADE.relative_to(ROOT)), "demo", f"ARGS={flags}"]
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe("make", command, environment(TERM="xterm"))  # noqa: S606
    terminal = Terminal(pid, fd)
    yield terminal
    for one in {pid, *terminal.started}:
        if not ended(one):
            os.kill(one, signal.SIGKILL)
    os.close(fd)


def test_ctrl_c_ends_make_demo_with_exit_code_0_and_leaves_nothing(made: Terminal) -> None:
    made.until("decisions so far: 0")
    assert len(made.started) >= 3  # the shell, the demo, its Valkey
    made.type(CTRL_C)
    assert made.end() == 0, made.seen
    assert "Stopping." in made.seen
    assert "***" not in made.seen  # make's own complaints
    assert all(ended(pid) for pid in made.started)


def test_what_ends_make_ends_the_demo_too(made: Terminal) -> None:
    made.until("decisions so far: 0")
    os.kill(made.pid, signal.SIGTERM)
    assert made.end() == -signal.SIGTERM
    assert all(ends(pid) for pid in made.started)


def test_the_hint_about_a_port_in_use_can_be_followed_with_make(environment: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            ["make", "-o", str(MADE.relative_to(ROOT)), "demo", f"ARGS=--listen {address}"],
            cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert 'make demo ARGS="--listen HOST:PORT"' in done.stderr
