"""The processes of a soak, with queries and faults."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis
from prometheus_client.parser import text_string_to_metric_families

from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_http, wait_for_port
from loadtests.soak.accounts import VARIANTS, plan_file
from loadtests.soak.client import connect
from loadtests.valkey import start_valkey

STOP_SECONDS: Final = 60.0
SCRAPE_SECONDS: Final = 30.0
PREFIX: Final = "qs"
_PROGRAM: Final = str(Path(sys.executable).parent / "sidecar")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")

SCRAPE: Final = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Sample:
    """The sidecar at one moment; `counts` are its metrics without labels, by name."""

    rss: int  # bytes, without the child that compiles a plan file
    files: int
    tasks: int
    clients: int  # open connections
    upstreams: int
    counts: dict[str, float]


class SoakEnvironment:
    """The processes of a soak. The stack stops them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.spool = stack.directory / "spool"
        self.shipped = stack.directory / "shipped.jsonl"
        self._plans = stack.directory / "plans" / "plans.yaml"
        self._plans.parent.mkdir()
        self.port, self.control, self._api_port = free_port(), free_port(), free_port()

    def start(self) -> None:
        """Start all processes. Raises DidNotStart."""
        self.valkey, valkey_port = start_valkey(self._stack)
        self.admin = redis.Redis(port=valkey_port, socket_timeout=10)
        self.api = self._start_api()
        wait_for_port(self.api, self._api_port)
        self.write_plans(plan_file())
        self._redis_url = f"redis://127.0.0.1:{valkey_port}/0"
        self.sidecar = self._stack.start("sidecar", self._command())
        wait_for_http(self.sidecar, f"http://127.0.0.1:{self.control}/readyz")
        self._connections = 0
        self._connections = self.redis_connections()

    def _command(self) -> list[str]:
        """The sidecar's command: timeouts are short, so that each occurs; the rest is default."""
        flags = {
            "plans": self._plans,
            "upstream": f"http://127.0.0.1:{self._api_port}",
            "listen": f"127.0.0.1:{self.port}",
            "control": f"127.0.0.1:{self.control}",
            "redis": self._redis_url,
            "redis-prefix": PREFIX,
            "redis-timeout-ms": 100,
            "spool": self.spool,
            "sinks": f"file:{self.shipped}",
            "header-timeout-s": 2,
            "response-timeout-s": 3,
            "stream-timeout-s": 3,
            "upstream-idle-timeout-s": 2,
            "half-close-timeout-s": 5,
        }
        return [_PROGRAM, "serve", *(f"--{name}={value}" for name, value in flags.items())]

    def _start_api(self) -> Running:
        command = [sys.executable, "-m", "loadtests.soak.api", str(self._api_port)]
        root = str(Path(__file__).parents[2])
        return self._stack.start("api", command, env={"PYTHONPATH": root})

    def write_plans(self, text: str) -> None:
        """Replace the plan file in one step."""
        new = self._stack.directory / "plans.new"
        new.write_text(text)
        new.rename(self._plans)

    def reconcile(self) -> "subprocess.CompletedProcess[str]":
        """Run `sidecar reconcile`, at rest."""
        command = [_PROGRAM, "reconcile", "--wait", "0", "--spool", str(self.spool)]
        command += ["--events", str(self.shipped), "--redis", self._redis_url]
        for number in range(len(VARIANTS)):
            former = self._stack.directory / f"plans{number}.yaml"
            former.write_text(plan_file(number))
            command += ["--former-plans", str(former), "--plans", str(former)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def redis_connections(self) -> int:
        """How many connections Redis has accepted since the start."""
        info: Any = self.admin.info("stats")
        return int(info["total_connections_received"]) - self._connections

    async def restart_api(self) -> None:
        """Stop and start the API: connections break, then it is unavailable. Raises DidNotStart."""
        await asyncio.to_thread(self._stack.stop, self.api)
        self.api = self._start_api()
        await asyncio.to_thread(wait_for_port, self.api, self._api_port)

    @asynccontextmanager
    async def paused(self, running: Running) -> AsyncIterator[None]:
        """Stop a process with SIGSTOP for the duration of the block."""
        os.kill(running.popen.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(running.popen.pid, signal.SIGCONT)

    async def sample(self) -> Sample:
        """Sample the sidecar. Raises DidNotStart if it has ended."""
        if self.sidecar.popen.poll() is not None:
            raise DidNotStart(f"the sidecar ended; its last output: {self.sidecar.tail()}")
        counts = await self._scrape()
        return Sample(
            rss=_resident(self.sidecar.popen.pid),
            files=_open_files(self.sidecar.popen.pid),
            tasks=int(counts["sidecar_tasks"]),
            clients=int(counts["sidecar_client_connections"]),
            upstreams=int(counts["sidecar_upstream_connections"]),
            counts=counts,
        )

    async def _scrape(self) -> dict[str, float]:
        async with asyncio.timeout(SCRAPE_SECONDS):
            connection = await connect(self.control)
            try:
                connection.send(SCRAPE)
                answer = await connection.answer()
            finally:
                connection.close()
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
            if not sample.labels
        }

    async def stop_sidecar(self) -> int:
        """Stop the sidecar with SIGTERM; its exit code.

        Raises subprocess.TimeoutExpired if it does not end.
        """
        self.sidecar.popen.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.sidecar.popen.wait, STOP_SECONDS)


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
