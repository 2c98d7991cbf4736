"""One run of wrk against one gateway, and the CPU time and memory of the gateway."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import redis

from loadtests.compare.gateways import API_KEY, OTHERS_CORE
from loadtests.processes import Running

PATH = "/v1/items/1"
LARGE_PATH = "/1mb"
WRK_SCRIPT = Path(__file__).parent / "wrk.lua"


@dataclass(frozen=True)
class Sample:
    """One run of wrk.

    `cpu`: share of its core that the gateway used. `scripts`: Redis scripts per request.
    """

    requests_per_s: float
    p50_us: int
    p99_us: int
    cpu: float
    scripts: float
    problem: str = ""


@dataclass
class Row:
    """All measurements of one gateway.

    `void` is the reason why its numbers are not valid, or "".
    """

    id: str
    title: str
    void: str = ""
    full: list[Sample] = field(default_factory=list)  # 64 connections
    light: list[Sample] = field(default_factory=list)  # 8 connections
    large: list[Sample] = field(default_factory=list)  # 8 connections, answers of 1 MB
    rss_bytes: int = 0

    @property
    def requests_per_s(self) -> float:
        """Requests per second, the median over the rounds."""
        return median(sample.requests_per_s for sample in self.full)


def load(
    running: Running,
    port: int,
    store: "redis.Redis",
    *,
    connections: int,
    seconds: int,
    path: str = PATH,
) -> Sample:
    """Drive a gateway with wrk on the other core. Raises RuntimeError if wrk fails."""
    command = [
        "taskset", "-c", str(OTHERS_CORE), "wrk", f"-c{connections}", "-t1", f"-d{seconds}s",
        "-H", f"X-Api-Key: {API_KEY}", "-s", str(WRK_SCRIPT), f"http://127.0.0.1:{port}{path}",
    ]  # fmt: skip
    cpu, scripts = running.cpu_seconds(), _scripts_run(store)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 30, check=False
    )
    cpu, scripts = running.cpu_seconds() - cpu, _scripts_run(store) - scripts
    line = next((text for text in done.stdout.splitlines() if text.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk gave no result: {done.stdout} {done.stderr}")
    result = json.loads(line.removeprefix("RESULT "))
    spent = result["duration_us"] / 1_000_000
    return Sample(
        requests_per_s=result["requests"] / spent,
        p50_us=result["p50_us"],
        p99_us=result["p99_us"],
        cpu=cpu / spent,
        scripts=scripts / max(1, result["requests"]),
        problem=_problem(running, result),
    )


def _problem(running: Running, result: dict[str, int]) -> str:
    if running.popen.poll() is not None:
        return f"ended during the run with code {running.popen.returncode}: {running.tail()}"
    if result["bad_status"]:
        return f"{result['bad_status']} of {result['requests']} answers were not 2xx"
    if result["broken"]:
        return f"{result['broken']} connections broke or timed out"
    return "" if result["requests"] else "no request was answered"


def _scripts_run(store: "redis.Redis") -> int:
    """How many scripts Redis has run so far."""
    stats = store.info("commandstats")
    assert isinstance(stats, dict)
    return sum(
        stats[name]["calls"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats
    )
