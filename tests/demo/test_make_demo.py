"""`make demo` on a terminal, as in the README: Ctrl-C ends it with exit code 0."""

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
READY = ROOT / ".venv" / ".demo-ready"
CTRL_C = b"\x03"

pytestmark = [
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    pytest.mark.skipif(not READY.exists(), reason="the environment was not made by make"),
]


@dataclass
class Terminal:
    """A command on a pseudo-terminal. `output` is what it has printed."""

    pid: int
    fd: int
    output: str = ""
    started: set[int] = field(default_factory=set)  # all of its descendants

    def read_until(self, text: str) -> None:
        """Read until `text` is in the output."""
        while text not in self.output:
            self.output += os.read(self.fd, 65_536).decode(errors="replace")
        self.started = descendants(self.pid)

    def type(self, keys: bytes) -> None:
        """Write to the terminal."""
        os.write(self.fd, keys)

    def end(self) -> int:
        """Read the rest of the output. Returns the exit code, negative for a signal."""
        try:
            while data := os.read(self.fd, 65_536):
                self.output += data.decode(errors="replace")
        except OSError:  # no process has the terminal open any more
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def descendants(pid: int) -> set[int]:
    """All descendants of a process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children}.union(
        *(descendants(int(child)) for child in children)
    )


def has_ended(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def ends_in_time(pid: int) -> bool:
    """Whether a process that is not a child of the test ends within 20 s."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 20.0)[0])
    finally:
        os.close(watched)


@pytest.fixture
def demo(environment: Any) -> Iterator[Terminal]:
    """`make demo` on two free ports, with the environment as it is: it installs nothing."""
    flags = f"--listen 127.0.0.1:{free_port()} --control 127.0.0.1:{free_port()}"
    command = ["make", "-o", str(READY.relative_to(ROOT)), "demo", f"ARGS={flags}"]
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe("make", command, environment(TERM="xterm"))  # noqa: S606
    terminal = Terminal(pid, fd)
    yield terminal
    for one in {pid, *terminal.started}:
        if not has_ended(one):
            os.kill(one, signal.SIGKILL)
    os.close(fd)


def test_ctrl_c_ends_make_demo_with_exit_code_0_and_leaves_nothing(demo: Terminal) -> None:
    demo.read_until("decisions so far: 0")
    assert len(demo.started) >= 3  # the shell, the demo, its Valkey
    demo.type(CTRL_C)
    assert demo.end() == 0, demo.output
    assert "Stopping." in demo.output
    assert "***" not in demo.output  # errors of make
    assert all(has_ended(pid) for pid in demo.started)


def test_sigterm_to_make_ends_the_demo(demo: Terminal) -> None:
    demo.read_until("decisions so far: 0")
    os.kill(demo.pid, signal.SIGTERM)
    assert demo.end() == -signal.SIGTERM
    assert all(ends_in_time(pid) for pid in demo.started)


def test_the_remedy_for_a_port_in_use_names_make(environment: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            ["make", "-o", str(READY.relative_to(ROOT)), "demo", f"ARGS=--listen {address}"],
            cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert 'make demo ARGS="--listen HOST:PORT"' in done.stderr
