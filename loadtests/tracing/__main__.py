"""Checks the traces of a sidecar with the OpenTelemetry Collector: `python -m loadtests.tracing`.

The collector takes the spans of some seconds of traffic, is away for a while, and comes back. While
it is there, each request of the access log must have a whole trace. No request may fail.
"""

import argparse
import asyncio
import json
import shutil
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from loadtests.dashboards.traffic import Traffic
from loadtests.processes import DidNotStart, Stack, free_port, wait_for_http, wait_for_port
from loadtests.tracing.collector_process import ROOT, Collector, build
from loadtests.tracing.verdict import faults_of
from loadtests.valkey import start_valkey

_PROGRAM: Final = str(Path(sys.executable).parent / "sidecar")
_PLANS: Final = ROOT / "loadtests" / "dashboards" / "plans.yaml"
_RATE: Final = 60.0


class Environment:
    """The processes of the check."""

    def __init__(self, stack: Stack) -> None:
        self.collector = Collector(stack)
        self.collector.start()
        shutil.copy(_PLANS, stack.directory / "plans.yaml")
        _, valkey = start_valkey(stack)
        api, self.port, self._control = free_port(), free_port(), free_port()
        started = stack.start(
            "api", [sys.executable, "-m", "loadtests.dashboards.api", str(api)],
            env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        wait_for_port(started, api)
        flags = {
            "plans": stack.directory / "plans.yaml",
            "upstream": f"http://127.0.0.1:{api}",
            "listen": f"127.0.0.1:{self.port}",
            "control": f"127.0.0.1:{self._control}",
            "redis": f"redis://127.0.0.1:{valkey}/0",
            "spool": stack.directory / "spool",
            "trace-endpoint": self.collector.url,
            "trace-ratio": 1,
            "trace-max-per-second": 10_000,
        }
        command = [_PROGRAM, "serve", *(f"--{name}={value}" for name, value in flags.items())]
        self._stack = stack
        self.sidecar = stack.start("sidecar", [*command, "--access-log"])
        wait_for_http(self.sidecar, f"http://127.0.0.1:{self._control}/readyz")

    def stop_sidecar(self) -> None:
        """Stop the sidecar, which sends its last spans."""
        self._stack.stop(self.sidecar)

    def log(self) -> list[dict[str, Any]]:
        """The log events so far."""
        lines = self.sidecar.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def count(self, outcome: str) -> float:
        """The spans with this outcome, by the sidecar's own count."""
        url = f"http://127.0.0.1:{self._control}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "sidecar_trace_spans_total" and sample.labels["outcome"] == outcome
        )


async def _send(environment: Environment, seconds: float) -> None:
    traffic = Traffic(f"http://127.0.0.1:{environment.port}", lambda: _RATE)
    sending = asyncio.create_task(traffic.run())
    await asyncio.sleep(seconds)
    traffic.stop()
    await sending


async def _until(true: Callable[[], bool], problem: str) -> None:
    """Wait for a condition. Raises DidNotStart with the problem if it stays false for a minute."""
    for _ in range(600):
        if true():
            return
        await asyncio.sleep(0.1)
    raise DidNotStart(problem)


def _logged(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The outcome of each traced request, by trace."""
    return {row["trace_id"]: row["reason"] for row in rows if "trace_id" in row}


async def _check(environment: Environment, seconds: float) -> list[str]:
    await _send(environment, seconds)
    await _until(lambda: environment.count("exported") > 0, "no span was exported")
    await asyncio.sleep(2)  # two batches: what was traced while the collector was there
    with_collector = [row for row in environment.log() if row["event"] == "request_ended"]
    environment.collector.stop()
    await _send(environment, seconds / 2)
    await _until(lambda: environment.count("failed") > 0, "no span was lost")
    environment.collector.start()
    before = environment.count("exported")
    await _send(environment, 1)
    await _until(lambda: environment.count("exported") > before, "no span is exported again")
    failed = environment.count("failed")
    environment.stop_sidecar()
    environment.collector.stop()
    every = [row for row in environment.log() if row["event"] == "request_ended"]
    spans = list(environment.collector.spans())
    whole = _logged(with_collector)
    faults = faults_of([span for span in spans if span["traceId"] in whole], whole)
    said = {row["event"] for row in environment.log()}
    faults += [
        f"the log lacks {event}"
        for event in ("trace_receiver_down", "trace_receiver_up") if event not in said
    ]  # fmt: skip
    faults += [
        f"{row['request_id']}: ended as internal-error"
        for row in every if row["reason"] == "internal-error"
    ]  # fmt: skip
    print(
        f"{len(every)} requests, {len(whole)} of them with the collector there; {len(spans)} spans "
        f"received, {failed:.0f} lost while it was away"
    )
    return faults


def main() -> int:
    """Run the check. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.tracing", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of traffic")
    options = parser.parse_args()
    try:
        build()
        with Stack() as stack:
            faults = asyncio.run(_check(Environment(stack), options.seconds))
    except DidNotStart as error:
        print(error)
        return 2
    for fault in faults[:20]:
        print(f"FAULT {fault}")
    print("FAILED" if faults else "passed: every trace is whole")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
