"""Customers on four plans; a broken guarantee makes the exit code 1.

No critical request is refused, every 429 explains itself, and no account gets more than its plan
allows. Needs a sidecar with `examples/plans.yaml` at `--host`; `python -m loadtests.run` starts
one.
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

from loadtests.checks import Customer, Verdict, bounds_of_key, costs_of, missing_explanation
from loadtests.scenarios.report import Report

PLAN_FILE = Path(os.environ.get("LOAD_PLANS", Path(__file__).parents[1] / "examples/plans.yaml"))
# Since the first request; Locust's --run-time includes its own start.
SECONDS = float(os.environ.get("LOAD_SECONDS", "0"))
RESULT = os.environ.get("LOAD_RESULT", "")  # path of the report; "": terminal only
DOCUMENT = yaml.safe_load(PLAN_FILE.read_text())

VERDICT = Verdict()
CUSTOMERS: dict[str, Customer] = {}
STARTED: list[float] = []  # when the first request was sent


class CustomerUser(FastHttpUser):
    """One program of a customer; all of a class share one API key, so one account."""

    abstract = True
    key: ClassVar[str]
    wait_time = constant_throughput(40)  # type: ignore[no-untyped-call]

    def on_start(self) -> None:
        """Read the limits of this API key."""
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
            violations: list[str] = []
            if response.status_code == 202:
                customer.deferred += 1  # not counted yet
            elif 200 <= response.status_code < 300:
                customer.admitted += costs
            elif response.status_code == 429:
                customer.refused += 1
                violations = missing_explanation(response.headers, response.content)
            elif response.status_code != 403:  # 403: the plan lacks the feature
                violations = [f"{method} {name} was answered {response.status_code}"]
            VERDICT.add(*violations)
            if violations:
                response.failure(violations[0])
            else:
                response.success()

    @task(2)
    def status(self) -> None:
        """Send a critical request without cost."""
        self._critical("GET", "/v1/status", "critical GET /v1/status")

    @task(2)
    def login(self) -> None:
        """Send a critical request, which is counted but never refused."""
        self._critical("POST", "/v1/auth/login", "critical POST /v1/auth/login")

    @task(12)
    def item(self) -> None:
        """Send a standard request."""
        self._limited("GET", "/v1/items/1", "standard GET /v1/items")

    @task(1)
    def export(self) -> None:
        """Send a deferrable request, which costs more."""
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
    """Print what each customer got, and set the exit code."""
    report = Report(verdict=VERDICT)
    seconds = time.monotonic() - STARTED[0] if STARTED else 0.0
    for customer in CUSTOMERS.values():
        VERDICT.add(*customer.exceeded(seconds, datetime.now(UTC)))
        units, critical = customer.admitted.total(), customer.critical
        report.record(
            customer.name, f"{units} units admitted, {customer.refused} refused, "
            f"{customer.deferred} deferred, "
            f"{critical} critical requests in {seconds:.1f} s",
        )  # fmt: skip
    if not CUSTOMERS or not all(customer.critical for customer in CUSTOMERS.values()):
        VERDICT.add("a customer sent no critical request: the run proves nothing")
    for failure in environment.runner.exceptions.values() if environment.runner else ():
        VERDICT.add(f"the load generator failed: {failure['msg']}")
    report.show()
    if RESULT:
        report.write(Path(RESULT))
    environment.process_exit_code = report.code
