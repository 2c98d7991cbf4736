"""What the scenarios share inside Locust: a story with an end, and a report as verdict.

The import makes Locust patch the process for gevent.
"""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
from locust import events
from locust.env import Environment

from loadtests.scenarios.assignment import Assignment
from loadtests.scenarios.report import Report

ASSIGNMENT: Final = Assignment.read()


def run_story(story: Callable[[Report], None]) -> None:
    """Run a story once all users have started, then end the run.

    The story fills a report, which is the verdict.
    """
    report = Report(timing=ASSIGNMENT.timing)
    ended = []

    @events.init.add_listener  # type: ignore[untyped-decorator]
    def prepare(environment: Environment, **_: Any) -> None:
        @environment.events.spawning_complete.add_listener  # type: ignore[untyped-decorator]
        def begin(**_: Any) -> None:
            gevent.spawn(run, environment)

    def run(environment: Environment) -> None:
        try:
            story(report)
        except Exception as error:  # noqa: BLE001 - any error must end the run and be reported
            traceback.print_exc()
            report.check(False, f"the scenario failed: {type(error).__name__}: {error}")
        ended.append(True)
        assert environment.runner is not None
        environment.runner.quit()

    @events.quitting.add_listener  # type: ignore[untyped-decorator]
    def judge(environment: Environment, **_: Any) -> None:
        report.check(bool(ended), "the run was stopped before its end")
        for failure in environment.runner.exceptions.values() if environment.runner else ():
            report.check(False, f"the load generator failed: {failure['msg']}")
        report.show()
        report.write(Path(ASSIGNMENT.result))
        environment.process_exit_code = report.code


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition became true within this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        gevent.sleep(0.05)
    return True
