"""Servers on loopback that stop with the `with` block, or with the test process."""

import contextlib
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from loadtests.processes import Running, Stack
from tests.support.stores.binaries import Binary

BUS = 10_000  # a cluster node also listens on its port + this
PLAIN = ("--save", "", "--appendonly", "no", "--protected-mode", "no",
         "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")  # fmt: skip


class Site:
    """Servers by their ports. `start` also restarts a killed server on its port."""

    def __init__(self, stack: Stack, binary: Binary) -> None:
        self.directory = stack.directory
        self._stack = stack
        self._program = stack.directory / binary.argv0
        if not self._program.exists():
            self._program.symlink_to(binary.path)
        self._commands: dict[int, list[str]] = {}
        self._running: dict[int, Running] = {}

    def start(self, port: int, *options: str, mode: str = "") -> None:
        """Start a server, and return when it answers PING or asks for a password."""
        if port not in self._commands:
            self._commands[port] = [str(self._program), *self._arguments(port, options, mode)]
        running = self._stack.start(f"redis-{port}", self._commands[port])
        self._running[port] = running
        until(lambda: _answers(port), why=running.tail)

    def _arguments(self, port: int, options: tuple[str, ...], mode: str) -> list[str]:
        if mode != "sentinel":
            return ["--port", str(port), "--bind", "127.0.0.1", *PLAIN, *options]
        file = self.directory / f"sentinel-{port}.conf"
        file.write_text("\n".join([f"port {port}", "bind 127.0.0.1", *options, ""]))
        return [str(file), "--sentinel"]

    def kill(self, port: int) -> None:
        """kill -9"""
        running = self._running.pop(port)
        running.popen.kill()
        running.popen.wait()

    def pause(self, port: int) -> None:
        self._running[port].popen.send_signal(signal.SIGSTOP)

    def go_on(self, port: int) -> None:
        self._running[port].popen.send_signal(signal.SIGCONT)

    def revive(self) -> None:
        """Restart servers that a failed test has killed."""
        for port in self._commands.keys() - self._running.keys():
            self.start(port)

    @property
    def ports(self) -> list[int]:
        """The ports of running servers."""
        return list(self._running)


def client(port: int, **options: Any) -> redis.Redis:
    """A client for a few commands: `with client(port) as …`."""
    return redis.Redis(
        port=port, decode_responses=True, socket_timeout=5, socket_connect_timeout=5, **options
    )


def ask(port: int, *command: Any) -> Any:
    """The reply to one command."""
    with client(port) as connection:
        return connection.execute_command(*command)


def empty(master: int, *, replicas: int) -> None:
    """Delete all data on the master and its replicas, and the master's scripts."""
    with client(master) as connection:
        connection.flushall()
        connection.script_flush()
        until(lambda: int(connection.wait(replicas, 1000)) >= replicas)


def until(holds: Callable[[], bool], *, seconds: float = 30, why: Callable[[], str] = str) -> None:
    """Wait until a condition holds. Raises AssertionError after `seconds`."""
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, f"it does not come to hold: {why()}"
        time.sleep(0.02)


def cluster_ports(count: int) -> list[int]:
    """Ports that are free with their bus ports, below the kernel's ephemeral ports."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(12_000, 22_000)
        if port not in found and _free(port) and _free(port + BUS):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-DENIED", b"-LOADING"))
    except OSError:
        return False


@contextmanager
def a_site(binary: Binary) -> Iterator[Site]:
    with Stack() as stack:
        yield Site(stack, binary)
