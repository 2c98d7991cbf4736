"""The sidecars of a run: their metrics, their logs and `sidecar reconcile`."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from loadtests.faults.accounts import PREFIX, plan_file
from loadtests.faults.faults import Redis
from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_http
from loadtests.soak.client import connect

SIDECARS: Final = 2
REST_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.1
SCRAPE_SECONDS: Final = 30.0
_PROGRAM: Final = str(Path(sys.executable).parent / "sidecar")
# Metrics of each sidecar once counters and events can be compared.
_AT_REST: Final = {
    'sidecar_store_mode{mode="redis"}': 1.0,
    "sidecar_journal_entries": 0.0,
    "sidecar_settlements_pending": 0.0,
    "sidecar_store_up": 1.0,
}

SCRAPE: Final = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


class FaultEnvironment:
    """Two sidecars in front of one API. The stack stops them."""

    def __init__(self, stack: Stack, redis: Redis, api_port: int, redis_url: str) -> None:
        self.ports = [free_port() for _ in range(SIDECARS)]
        self._stack = stack
        self._redis = redis
        self._controls = [free_port() for _ in range(SIDECARS)]
        self._upstream = f"http://127.0.0.1:{api_port}"
        self._redis_url = redis_url
        self._plans = stack.directory / "plans.yaml"
        self._sidecars: list[Running] = []

    async def start(self) -> None:
        """Return once all sidecars are ready and know of each other. Raises DidNotStart."""
        self._plans.write_text(plan_file())
        for number in range(SIDECARS):
            self._sidecars.append(self._stack.start(f"sidecar-{number}", self._command(number)))
        for running, control in zip(self._sidecars, self._controls, strict=True):
            address = f"http://127.0.0.1:{control}/readyz"
            await asyncio.to_thread(wait_for_http, running, address)
        if not await self._until("sidecar_sidecars_up", float(SIDECARS)):
            raise DidNotStart("the sidecars did not find each other")

    def _command(self, number: int) -> list[str]:
        folder = self._stack.directory
        flags = {
            "plans": self._plans,
            "upstream": self._upstream,
            "listen": f"127.0.0.1:{self.ports[number]}",
            "control": f"127.0.0.1:{self._controls[number]}",
            "redis": self._redis_url,
            "redis-prefix": PREFIX,
            "spool": folder / f"spool-{number}",
            "sinks": f"file:{folder / f'shipped-{number}.jsonl'}",
        }
        return [_PROGRAM, "serve", *(f"--{name}={value}" for name, value in flags.items())]

    async def at_rest(self) -> bool:
        """Wait until Redis counts everything again and nothing is uncharged.

        Returns whether that happened within `REST_SECONDS` for each metric.
        """
        found = [await self._until(name, value) for name, value in _AT_REST.items()]
        return all(found)

    async def _until(self, name: str, value: float) -> bool:
        for _ in range(int(REST_SECONDS / POLL_SECONDS)):
            if all(one.get(name) == value for one in await self.metrics()):
                return True
            await asyncio.sleep(POLL_SECONDS)
        return False

    async def total(self, name: str) -> int:
        """The sum of a metric over all sidecars."""
        return int(sum(one.get(name, 0.0) for one in await self.metrics()))

    async def metrics(self) -> list[dict[str, float]]:
        """The metrics of each sidecar, by name with labels. Raises DidNotStart."""
        return [await self._scrape(number) for number in range(SIDECARS)]

    async def _scrape(self, number: int) -> dict[str, float]:
        running = self._sidecars[number]
        if running.popen.poll() is not None:
            raise DidNotStart(f"a sidecar ended; its last output: {running.tail()}")
        async with asyncio.timeout(SCRAPE_SECONDS):
            connection = await connect(self._controls[number])
            try:
                connection.send(SCRAPE)
                answer = await connection.answer()
            finally:
                connection.close()
        found = {}
        for family in text_string_to_metric_families(answer.body.decode()):
            for one in family.samples:
                labels = ",".join(f'{key}="{value}"' for key, value in one.labels.items())
                found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
        return found

    def reconcile(self) -> dict[str, Any]:
        """The JSON report of `sidecar reconcile`. Raises DidNotStart if it failed."""
        done = self._run_cli("reconcile")
        if done.returncode not in (0, 1):
            raise DidNotStart(f"sidecar reconcile ended with {done.returncode}: {done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rebuild(self) -> None:
        """Restore the counters that Redis has lost."""
        self._run_cli("rebuild", "--apply")

    def _run_cli(self, command_name: str, *more: str) -> "subprocess.CompletedProcess[str]":
        command = [_PROGRAM, command_name, "--json", "--plans", str(self._plans), *more]
        command += ["--redis", self._redis.url, "--redis-prefix", PREFIX]
        for number in range(SIDECARS):
            folder = self._stack.directory
            command += ["--spool", str(folder / f"spool-{number}")]
            command += ["--events", str(folder / f"shipped-{number}.jsonl")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def error_lines(self) -> list[str]:
        """Lines of the sidecars' logs with an error or a traceback."""
        lines = [line for one in self._sidecars for line in one.log.read_text().splitlines()]
        return [
            line for line in lines if '"level": "error"' in line or "Traceback" in line
            or '"level":"error"' in line or '"exception"' in line
        ]  # fmt: skip
