"""Processes that end with a `with` block, and their CPU time and memory from /proc."""

import contextlib
import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 5.0
ENVIRONMENT = {"SIDECAR_DRAIN_DELAY_S": "0"}  # nothing routes requests elsewhere here
PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)


class DidNotStart(Exception):
    """A process did not start; the text ends with its last output."""


_used_ports: set[int] = set()


def free_port() -> int:
    """A free TCP port on 127.0.0.1 that was not returned before.

    It is below the range of outgoing connections; one of these could otherwise take it before the
    server does.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _used_ports:
                _used_ports.add(port)
                return port


def allow_files(count: int) -> None:
    """Allow this many open files for this process and those that it starts. Raises DidNotStart."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise DidNotStart(f"{count} open files are needed, but ulimit -Hn allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class Running:
    """A process that was started, with all its children."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    def tail(self, lines: int = 5) -> str:
        """The last lines that the process has written."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _family(self) -> Iterator[int]:
        waiting = [self.popen.pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    waiting += [int(child) for child in children.read_text().split()]

    def cpu_seconds(self) -> float:
        """CPU time used since the start, user and system, children included."""
        ticks = 0
        for pid in self._family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def rss_bytes(self) -> int:
        """Resident memory, children included."""
        total = 0
        for pid in self._family():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                total += sum(
                    int(line.split()[1]) * 1024
                    for line in status.splitlines()
                    if line.startswith("VmRSS:")
                )
        return total

    def stop(self) -> None:
        """SIGTERM to the whole group, SIGKILL to what is left after five seconds."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


class Stack:
    """Processes that start in order and stop in reverse, and their directory."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sidecar-load-"))
        # Servers that drop root must be able to read these files.
        self.directory.chmod(0o755)
        self._running: list[Running] = []

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, _exit_on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for running in reversed(self._running):
            running.stop()
        signal.signal(signal.SIGTERM, self._before)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Start a command, on one core if `core` is set. Raises DidNotStart."""
        log = self.directory / f"{name}.log"
        pin = ["taskset", "-c", str(core)] if core is not None else []
        with log.open("wb") as output:
            try:
                popen = subprocess.Popen(
                    [*pin, *command],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    env={**os.environ, **ENVIRONMENT, **(env or {})}, cwd=self.directory,
                    start_new_session=True, preexec_fn=_die_with_parent,
                )  # fmt: skip
            except OSError as error:
                raise DidNotStart(f"{name} did not start: {error}") from error
        running = Running(name, popen, log)
        self._running.append(running)
        return running

    def stop(self, running: Running) -> None:
        """Stop one process before the others."""
        running.stop()
        self._running.remove(running)


def wait_for_http(running: Running, url: str, *, seconds: float = 20.0, key: str = "") -> bytes:
    """Wait for a 200 and return its body. Raises DidNotStart."""
    request = urllib.request.Request(url, headers={"X-Api-Key": key} if key else {})  # noqa: S310 - a local server
    last = "no answer"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and running.popen.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310 - a local server
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            last = f"status {error.code}"
            error.close()
        except OSError as error:
            last = str(error)
        time.sleep(0.05)
    raise DidNotStart(
        f"{running.name} is not ready at {url} ({last}). Its last output: {running.tail()}"
    )


def wait_for_port(running: Running, port: int, *, seconds: float = 10.0) -> None:
    """Return once 127.0.0.1:port accepts connections. Raises DidNotStart."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and running.popen.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise DidNotStart(
        f"{running.name} does not listen on port {port}. Its last output: {running.tail()}"
    )


def _die_with_parent() -> None:
    """Make the kernel kill the process when its parent ends."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_on_signal(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)
