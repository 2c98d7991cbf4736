"""One scenario from beginning to end: its environment, Locust before it, and who kills sidecars."""

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from typing import Final, Self

from loadtests.processes import DidNotStart, Stack
from loadtests.scenarios.assignment import Assignment, Options
from loadtests.scenarios.catalog import ROOT, Scenario
from loadtests.scenarios.environment import ScenarioEnvironment
from loadtests.scenarios.report import Report, read

SPARE_SECONDS: Final = 150.0  # for Locust to start in, and for what a story waits for
SPARE_FILES: Final = 1_000  # beside those of a crowd


class Killer:
    """While its block lasts, a sidecar is killed and started again, then the next. Without
    `every_s` none is. Raises DidNotStart at the end when one did not come back."""

    def __init__(self, environment: ScenarioEnvironment, every_s: float) -> None:
        self.kills = 0
        self._environment = environment
        self._every_s = every_s
        self._error: DidNotStart | None = None
        self._enough = threading.Event()
        # What it starts lives no longer than this thread: see `processes`.
        self._thread = threading.Thread(target=self._kill_on, name="killer", daemon=True)

    def __enter__(self) -> Self:
        if self._every_s:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._enough.set()
        if self._every_s:
            self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _kill_on(self) -> None:
        for number in itertools.cycle(range(len(self._environment.sidecars))):
            if self._enough.wait(self._every_s):
                return
            self._environment.wait_until_busy(number, self._enough)
            self._environment.kill(number)
            self.kills += 1
            try:
                self._environment.restart(number)
            except DidNotStart as error:
                self._error = error
                return


def run_scenario(scenario: Scenario, options: Options) -> Report:
    """One scenario from beginning to end. Raises DidNotStart, also when Locust tells nothing."""
    if scenario.crowded:
        _allow_files(options.calls + SPARE_FILES)
    with Stack() as stack:
        environment = ScenarioEnvironment(stack, scenario)
        environment.start()
        result = stack.directory / "result.json"
        with Killer(environment, scenario.kill_every_s) as killer:
            code = _run_locust(scenario, environment.assignment(result, options), options)
        try:
            report = read(result)
        except OSError:
            problem = f"{scenario.name}: Locust ended with {code} and told nothing"
            raise DidNotStart(problem) from None
    if killer.kills:
        report.record("sidecars killed", str(killer.kills))
    return report


def _allow_files(count: int) -> None:
    """So many open files for each process that is started from here. Raises DidNotStart."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise DidNotStart(f"{count} open files are needed, and ulimit -Hn allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _run_locust(scenario: Scenario, given: Assignment, options: Options) -> int:
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
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            locust.kill()
