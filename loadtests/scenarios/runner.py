"""One scenario from beginning to end: its processes, Locust, and kills of sidecars."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from typing import Final, Self

from loadtests.processes import DidNotStart, Stack, allow_files
from loadtests.scenarios.assignment import Assignment, Options
from loadtests.scenarios.catalog import ROOT, Scenario
from loadtests.scenarios.environment import ScenarioEnvironment
from loadtests.scenarios.report import Report, read

SPARE_SECONDS: Final = 150.0  # for the start of Locust, and for the waits of a story
SPARE_FILES: Final = 1_000  # in addition to those of a crowd


class Killer:
    """A context that kills one sidecar after the other and starts it again.

    Without `every_s` it kills none. At the end it raises DidNotStart if a sidecar did not start
    again.
    """

    def __init__(self, environment: ScenarioEnvironment, every_s: float) -> None:
        self.kills = 0
        self._environment = environment
        self._every_s = every_s
        self._error: DidNotStart | None = None
        self._stopped = threading.Event()
        # Processes that a thread starts end with it (see `processes`): one thread does it all.
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)

    def __enter__(self) -> Self:
        if self._every_s:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        if self._every_s:
            self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        for number in itertools.cycle(range(len(self._environment.sidecars))):
            if self._stopped.wait(self._every_s):
                return
            self._environment.wait_until_busy(number, self._stopped)
            self._environment.kill(number)
            self.kills += 1
            try:
                self._environment.restart(number)
            except DidNotStart as error:
                self._error = error
                return


def run_scenario(scenario: Scenario, options: Options) -> Report:
    """Run one scenario. Raises DidNotStart, also if Locust wrote no report."""
    if scenario.crowded:
        allow_files(options.calls + SPARE_FILES)
    with Stack() as stack:
        environment = ScenarioEnvironment(stack, scenario)
        environment.start()
        result = stack.directory / "result.json"
        with Killer(environment, scenario.kill_every_s) as killer:
            code = _run_locust(scenario, environment.assignment(result, options), options)
        try:
            report = read(result)
        except OSError:
            message = f"{scenario.name}: Locust ended with {code} and wrote no report"
            raise DidNotStart(message) from None
    if killer.kills:
        report.record("sidecars killed", str(killer.kills))
    return report


def _run_locust(scenario: Scenario, assignment: Assignment, options: Options) -> int:
    """Run Locust from the repository's root, for a bounded time.

    Returns its exit code, or -9 if it did not end.
    """
    users, most = str(scenario.users), options.seconds + SPARE_SECONDS
    command = [
        sys.executable, "-m", "locust", "--locustfile", str(scenario.locustfile),
        "--headless", "--users", users, "--spawn-rate", users, "--run-time", f"{int(most)}s",
        "--host", assignment.sidecars[0], "--only-summary", "--loglevel", "WARNING",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | assignment.variables(), stdin=subprocess.DEVNULL
    ) as locust:
        try:
            return locust.wait(most + 30)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            locust.kill()
