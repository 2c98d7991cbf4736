"""Customers on four plans, with the promises that fail the run (exit code 1).

No critical call is refused, every 429 explains itself, nobody gets more than the plan allows.
Needs a sidecar with `examples/plans.yaml` at `--host`; `python -m loadtests.run` brings one up.
"""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import gevent
import yaml
from locust import FastHttpUser, constant_throughput, events, task
from locust.env import Environment

from loadtests.checks import Customer, Verdict, bounds_of_key, costs_of, unexplained
from loadtests.scenarios.report import Report

PLAN_FILE = Path(os.environ.get("LOAD_PLANS", Path(__file__).parents[1] / "examples/plans.yaml"))
# From the first call; Locust counts its own start into --run-time.
SECONDS = float(os.environ.get("LOAD_SECONDS", "0"))
RESULT = os.environ.get("LOAD_RESULT", "")  # where the report goes; "": only to the terminal
DOCUMENT = yaml.safe_load(PLAN_FILE.read_text())

VERDICT = Verdict()
CUSTOMERS: dict[str, Customer] = {}
STARTED: list[float] = []  # when the first call was sent


class CustomerUser(FastHttpUser):
    """One program of a customer; all of a class share one key, thus one account."""

    abstract = True
    key: ClassVar[str]
    wait_time = constant_throughput(40)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        """Learn what the plan allows this key."""
        if not STARTED:
            STARTED.append(time.monotonic())
            if SECONDS and self.environment.runner:
                gevent.spawn_later(SECONDS, self.environment.runner.quit)
        CUSTOMERS.setdefault(self.key, Customer(self.key, bounds_of_key(DOCUMENT, self.key)))

    def _send(self, method: str, path: str, name: str) -> Any:
        headers = {"X-Api-Key": self.key, "Content-Type": "application/json"}
        body = '{"format": "csv"}' if method == "POST" else None
        return self.client.request(
            method, path, data=body, headers=headers, name=name, catch_response=True
        )

    def _critical(self, method: str, path: str, name: str) -> None:
        with self._send(method, path, name) as response:
            CUSTOMERS[self.key].critical += 1
            if 200 <= response.status_code < 300:
                response.success()
                return
            sentence = f"{self.key}: critical {method} {path} was answered {response.status_code}"
            VERDICT.add(sentence)
            response.failure(sentence)

    def _limited(self, method: str, path: str, name: str) -> None:
        customer, costs = CUSTOMERS[self.key], costs_of(DOCUMENT, method, path)
        with self._send(method, path, name) as response:
            wrong: list[str] = []
            if response.status_code == 202:
                customer.deferred += 1  # not admitted yet
            elif 200 <= response.status_code < 300:
                customer.admitted += costs
            elif response.status_code == 429:
                customer.refused += 1
                wrong = unexplained(response.headers, response.content)
            elif response.status_code != 403:  # 403: the plan lacks the feature
                wrong = [f"{method} {name} was answered {response.status_code}"]
            VERDICT.add(*wrong)
            if wrong:
                response.failure(wrong[0])
            else:
                response.success()

    @task(2)
    def status(self) -> None:
        """Is the API up?"""
        self._critical("GET", "/v1/status", "critical GET /v1/status")

    @task(2)
    def login(self) -> None:
        """Counted, but never refused."""
        self._critical("POST", "/v1/auth/login", "critical POST /v1/auth/login")

    @task(12)
    def item(self) -> None:
        """The everyday call."""
        self._limited("GET", "/v1/items/1", "standard GET /v1/items")

    @task(1)
    def export(self) -> None:
        """Costs more and could wait."""
        self._limited("POST", "/v1/exports", "deferrable POST /v1/exports")


class Free(CustomerUser):
    key = "demo-free-key"


class Builder(CustomerUser):
    key = "demo-builder-key"


class Pro(CustomerUser):
    key = "demo-pro-key"


class Enterprise(CustomerUser):
    key = "demo-enterprise-key"


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Environment, **_: Any) -> None:
    """Print what each customer got; any broken promise makes the exit code 1."""
    report = Report(verdict=VERDICT)
    seconds = time.monotonic() - STARTED[0] if STARTED else 0.0
    for customer in CUSTOMERS.values():
        VERDICT.add(*customer.over(seconds, datetime.now(UTC)))
        units, critical = customer.admitted.total(), customer.critical
        report.record(
            customer.name, f"{units} units admitted, {customer.refused} refused, "
            f"{customer.deferred} deferred, "
            f"{critical} critical calls in {seconds:.1f} s",
        )  # fmt: skip
    if not CUSTOMERS or not all(customer.critical for customer in CUSTOMERS.values()):
        VERDICT.add("a customer made no critical call: the run proves nothing")
    for failure in environment.runner.exceptions.values() if environment.runner else ():
        VERDICT.add(f"the load run itself failed: {failure['msg']}")
    report.show()
    if RESULT:
        report.write(Path(RESULT))
    environment.process_exit_code = report.code
