"""Calm and loaded phases in turns, inside Locust."""

import random
import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import Event

from loadtests.scenarios.locust_run import wait_for
from loadtests.scenarios.measures import typical_p99
from loadtests.scenarios.report import Report

ROUNDS: Final = 3
REST_S: Final = 60.0  # for the requests in flight after a loaded phase


class Phases:
    """Calm and loaded phases in turns, so that disturbances from outside affect both.

    A request belongs to the phase in which it began.
    """

    def __init__(self) -> None:
        self.loaded = Event()
        self.seconds = 0.0  # of all loaded phases
        self.calm: list[list[float]] = []
        self.under_load: list[list[float]] = []
        self._phase: list[float] | None = None

    def run(self, seconds: float, *, at_rest: Callable[[], bool]) -> None:
        """Run all rounds within this time.

        A calm phase begins once the requests of the loaded phase before it have ended.
        """
        for _ in range(ROUNDS):
            wait_for(at_rest, REST_S)
            self._run_phase(self.calm, seconds / ROUNDS / 2)
            self.loaded.set()
            began = time.monotonic()
            self._run_phase(self.under_load, seconds / ROUNDS / 2)
            self.loaded.clear()
            self.seconds += time.monotonic() - began

    def _run_phase(self, phases: list[list[float]], seconds: float) -> None:
        self._phase = []
        phases.append(self._phase)
        gevent.sleep(seconds)
        self._phase = None

    def measure(self, send: Callable[[], Any]) -> Any:
        """The function's result; how long it took is recorded."""
        phase, began = self._phase, time.perf_counter()
        answer = send()
        if phase is not None:
            phase.append(time.perf_counter() - began)
        return answer

    def wait_for_load(self, pause: float) -> None:
        """Wait for a loaded phase; then start at random within the pause between two requests."""
        if not self.loaded.is_set():
            self.loaded.wait()
            gevent.sleep(random.uniform(0, pause))

    def judge(self, report: Report, name: str, most: float) -> None:
        """Check that the loaded p99 is at most `most` times the calm p99."""
        calm, loaded = typical_p99(self.calm), typical_p99(self.under_load)
        if calm is None or loaded is None:
            report.check_time(False, f"too few requests of {name}: the run proves nothing")
            return
        ratio = loaded / calm
        report.check_time(ratio <= most, f"the p99 of {name} is {ratio:.2f} × its p99 without load")
        value = f"{calm * 1000:.0f} ms calm, {loaded * 1000:.0f} ms under load: × {ratio:.2f}"
        report.record(f"p99 of {name}", value)
