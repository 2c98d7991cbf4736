"""The processes of one scenario: Valkey, an API, and sidecars that can be killed."""

import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from loadtests.processes import Running, Stack, free_port, wait_for_http
from loadtests.scenarios.assignment import Assignment, Options
from loadtests.scenarios.catalog import ROOT, Scenario
from loadtests.valkey import start_valkey

BUSY_S: Final = 10.0
IN_FLIGHT: Final = "sidecar_inflight_requests "
_PROGRAM: Final = str(Path(sys.executable).parent / "sidecar")


@dataclass
class Sidecar:
    """One sidecar; it keeps its addresses when it starts again."""

    name: str
    command: list[str]
    port: int
    control: int
    running: Running


class ScenarioEnvironment:
    """The processes of a scenario. The stack stops them."""

    def __init__(self, stack: Stack, scenario: Scenario) -> None:
        self._stack = stack
        self._scenario = scenario
        self.sidecars: list[Sidecar] = []
        self.api = ""

    def start(self) -> None:
        """Start all processes. Raises DidNotStart."""
        _, valkey = start_valkey(self._stack)
        self._start_api()
        for number, flags in enumerate(self._scenario.sidecars):
            self.sidecars.append(self._sidecar(f"sidecar{number}", valkey, flags))
        for sidecar in self.sidecars:
            wait_for_http(sidecar.running, f"http://127.0.0.1:{sidecar.control}/readyz")

    def _start_api(self) -> None:
        port, capacity = free_port(), self._scenario.api
        self.api = f"http://127.0.0.1:{port}"
        if capacity is None:
            command = [sys.executable, str(ROOT / "loadtests" / "sample_api.py"), str(port)]
        else:
            command = [sys.executable, "-m", "loadtests.scenarios.api", str(port)]
            command += map(str, (capacity.workers, capacity.service_ms, capacity.queue))
        running = self._stack.start("api", command, env={"PYTHONPATH": str(ROOT)})
        wait_for_http(running, self.api + ("/v1/status" if capacity is None else "/_seen"))

    def _sidecar(self, name: str, valkey: int, more: Mapping[str, str]) -> Sidecar:
        port, control = free_port(), free_port()
        flags = {
            "plans": str(self._scenario.plans.resolve()),
            "upstream": self.api,
            "listen": f"127.0.0.1:{port}",
            "control": f"127.0.0.1:{control}",
            "redis": f"redis://127.0.0.1:{valkey}/0",
            "spool": str(self._stack.directory / name),
            **self._scenario.flags,
            **more,
        }
        command = [_PROGRAM, "serve", *(f"--{flag}={value}" for flag, value in flags.items())]
        return Sidecar(name, command, port, control, self._stack.start(name, command))

    def wait_until_busy(self, number: int, stopped: threading.Event) -> None:
        """Return once a sidecar has a request in flight, so that a kill interrupts it.

        Returns after BUSY_S, or once `stopped` is set, in any case.
        """
        deadline = time.monotonic() + BUSY_S
        while time.monotonic() < deadline and self._in_flight(number) < 1:
            if stopped.wait(0.02):
                return

    def _in_flight(self, number: int) -> float:
        address = f"http://127.0.0.1:{self.sidecars[number].control}/metrics"
        with suppress(OSError), urllib.request.urlopen(address, timeout=BUSY_S) as answer:
            lines = answer.read().decode().splitlines()
            prefix = "sidecar_inflight_requests "
            return sum(
                float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)
            )
        return 0.0

    def kill(self, number: int) -> None:
        """Kill a sidecar with SIGKILL."""
        running = self.sidecars[number].running
        running.popen.kill()
        running.popen.wait()

    def restart(self, number: int) -> None:
        """Start a killed sidecar again. Raises DidNotStart."""
        sidecar = self.sidecars[number]
        sidecar.running = self._stack.start(sidecar.name, sidecar.command)
        wait_for_http(sidecar.running, f"http://127.0.0.1:{sidecar.control}/readyz")

    def assignment(self, result: Path, options: Options) -> Assignment:
        """The assignment of the Locust process."""
        first = self.sidecars[0]
        return Assignment(
            plans=str(self._scenario.plans.resolve()),
            result=str(result),
            api=self.api,
            sidecars=tuple(f"http://127.0.0.1:{sidecar.port}" for sidecar in self.sidecars),
            capacity=self._scenario.api.per_second if self._scenario.api else inf,
            control=f"http://127.0.0.1:{first.control}",
            pid=first.running.popen.pid,
            seconds=options.seconds,
            calls=options.calls,
            timing=options.timing,
        )
