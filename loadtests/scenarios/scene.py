"""The processes of one scenario: Valkey, an API, sidecars; and one run of Locust before them."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_http
from loadtests.scenarios.catalog import ROOT, Scenario
from loadtests.scenarios.given import Given
from loadtests.scenarios.report import Report, read
from loadtests.valkey import start_valkey

SPARE_SECONDS: Final = 150.0  # for Locust to start in, and for what a story waits for
_PROGRAM: Final = str(Path(sys.executable).parent / "sidecar")


@dataclass(frozen=True)
class Options:
    """What is the same for all scenarios of a run."""

    seconds: float = 20.0
    calls: int = 10_000
    timing: bool = True


@dataclass
class Sidecar:
    """One of them; when it is started again, its addresses stay."""

    name: str
    command: list[str]
    port: int
    control: int
    running: Running


class Scene:
    """Starts everything; the stack stops it."""

    def __init__(self, stack: Stack, scenario: Scenario) -> None:
        self._stack = stack
        self._scenario = scenario
        self.sidecars: list[Sidecar] = []
        self.api = ""

    def start(self) -> None:
        """Raises DidNotStart."""
        _, valkey = start_valkey(self._stack)
        self._start_api()
        for number, flags in enumerate(self._scenario.sidecars):
            self.sidecars.append(self._sidecar(f"sidecar{number}", valkey, flags))
        for one in self.sidecars:
            wait_for_http(one.running, f"http://127.0.0.1:{one.control}/readyz")

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

    def kill(self, number: int) -> None:
        """`kill -9` to one of the sidecars."""
        running = self.sidecars[number].running
        running.popen.kill()
        running.popen.wait()

    def restart(self, number: int) -> None:
        """Start one that was killed. Raises DidNotStart."""
        one = self.sidecars[number]
        one.running = self._stack.start(one.name, one.command)
        wait_for_http(one.running, f"http://127.0.0.1:{one.control}/readyz")

    def given(self, result: Path, options: Options) -> Given:
        """What Locust has to know."""
        first = self.sidecars[0]
        return Given(
            plans=str(self._scenario.plans.resolve()),
            result=str(result),
            api=self.api,
            sidecars=tuple(f"http://127.0.0.1:{one.port}" for one in self.sidecars),
            capacity=self._scenario.api.per_second if self._scenario.api else inf,
            control=f"http://127.0.0.1:{first.control}",
            pid=first.running.popen.pid,
            seconds=options.seconds,
            calls=options.calls,
            timing=options.timing,
        )


class Killer(threading.Thread):
    """Kills a sidecar and starts it again, then the next, until told to stop. `error` is why it
    could not go on."""

    def __init__(self, scene: Scene, every_s: float) -> None:
        super().__init__(name="killer", daemon=True)
        self.error: DidNotStart | None = None
        self.kills = 0
        self.enough = threading.Event()
        self._scene = scene
        self._every_s = every_s

    def run(self) -> None:
        for number in itertools.cycle(range(len(self._scene.sidecars))):
            if self.enough.wait(self._every_s):
                return
            self._scene.kill(number)
            self.kills += 1
            try:
                self._scene.restart(number)
            except DidNotStart as error:
                self.error = error
                return


def perform(scenario: Scenario, options: Options) -> Report:
    """One scenario from beginning to end. Raises DidNotStart, also when Locust tells nothing."""
    with Stack() as stack:
        scene = Scene(stack, scenario)
        scene.start()
        result = stack.directory / "result.json"
        killer = Killer(scene, scenario.kill_every_s)
        if scenario.kill_every_s:
            killer.start()
        try:
            code = _run_locust(scenario, scene.given(result, options), options)
        finally:
            killer.enough.set()
            if scenario.kill_every_s:
                killer.join()
        if killer.error is not None:
            raise killer.error
        try:
            report = read(result)
        except OSError:
            problem = f"{scenario.name}: Locust ended with {code} and told nothing"
            raise DidNotStart(problem) from None
    if scenario.kill_every_s:
        report.tell("sidecars killed", str(killer.kills))
    return report


def _run_locust(scenario: Scenario, given: Given, options: Options) -> int:
    """In the foreground, from the repository's root, for a bounded time. Returns its exit code,
    -9 when it did not end."""
    users, most = str(scenario.users), options.seconds + SPARE_SECONDS
    command = [
        sys.executable, "-m", "locust", "--locustfile", str(scenario.locustfile),
        "--headless", "--users", users, "--spawn-rate", users, "--run-time", f"{int(most)}s",
        "--host", given.sidecars[0], "--only-summary", "--loglevel", "WARNING",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | given.environment(), stdin=subprocess.DEVNULL
    ) as locust:
        try:
            return locust.wait(most + 30)
        finally:
            locust.kill()
