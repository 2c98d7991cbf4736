"""Calm phases and loaded ones in turns, inside Locust."""

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
REST_S: Final = 60.0  # for what a loaded phase leaves behind


class Phases:
    """Calm phases and loaded ones in turns, so that what comes from outside disturbs both. A call
    belongs to the phase in which it began."""

    def __init__(self) -> None:
        self.loaded = Event()
        self.seconds = 0.0  # of all loaded phases
        self.calm: list[list[float]] = []
        self.under_load: list[list[float]] = []
        self._phase: list[float] | None = None

    def play(self, seconds: float, *, at_rest: Callable[[], bool]) -> None:
        """All rounds, which take so long together. A calm phase begins when what the loaded one
        before has left is done."""
        for _ in range(ROUNDS):
            wait_for(at_rest, REST_S)
            self._one(self.calm, seconds / ROUNDS / 2)
            self.loaded.set()
            began = time.monotonic()
            self._one(self.under_load, seconds / ROUNDS / 2)
            self.loaded.clear()
            self.seconds += time.monotonic() - began

    def _one(self, phases: list[list[float]], seconds: float) -> None:
        self._phase = []
        phases.append(self._phase)
        gevent.sleep(seconds)
        self._phase = None

    def timed(self, call: Callable[[], Any]) -> Any:
        """What the call returns; how long it took is noted."""
        phase, began = self._phase, time.perf_counter()
        answer = call()
        if phase is not None:
            phase.append(time.perf_counter() - began)
        return answer

    def wait_for_load(self, pause: float) -> None:
        """For those who make the load: they start one by one, within the pause between calls."""
        if not self.loaded.is_set():
            self.loaded.wait()
            gevent.sleep(random.uniform(0, pause))

    def judge(self, report: Report, who: str, most: float) -> None:
        """Promise that the loaded p99 is at most so many times the calm one."""
        calm, loaded = typical_p99(self.calm), typical_p99(self.under_load)
        if calm is None or loaded is None:
            report.check_time(False, f"too few calls of {who}: the run proves nothing")
            return
        ratio = loaded / calm
        report.check_time(ratio <= most, f"the p99 of {who} is {ratio:.2f} × that without the load")
        told = f"{calm * 1000:.0f} ms calm, {loaded * 1000:.0f} ms under load: × {ratio:.2f}"
        report.record(f"p99 of {who}", told)
