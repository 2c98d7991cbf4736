"""`python -m loadtests.compare.decide`: requests per second of the decide port, on one core.

Three limits, the account in the plan file, and an event for each decision, as in the comparison.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from loadtests.compare.gateways import API_KEY, COMPILED, GATEWAY_CORE, OTHERS_CORE, PLANS, find
from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_http
from loadtests.valkey import start_valkey

SCRIPT = Path(__file__).parent / "decide.lua"
MODES = {
    "alone": "POST /v1/decide, settle false",
    "plain": "GET /v1/forward-auth",
    "settled": "POST /v1/decide and /v1/settle, each counted",
}
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of this run
WARM_UP_SECONDS = 2


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.compare.decide", description=__doc__)
    parser.add_argument("--tree", type=Path, default=COMPILED, help="directory with a sidecar/")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is driven (3)")
    parser.add_argument(
        "--seconds", type=int, default=6, help="length of each drive, in seconds (6)"
    )
    parser.add_argument("--connections", type=int, default=64, help="connections of wrk (64)")
    return parser.parse_args(args)


def start(stack: Stack, tree: Path, redis: int) -> tuple[Running, int]:
    """Start a sidecar with a decide port on TCP; its process and that port. Raises DidNotStart."""
    decide, control = free_port(), free_port()
    token = stack.directory / "decide-token"
    token.write_text(TOKEN)
    sidecar = find("sidecar")
    if sidecar is None:
        raise DidNotStart("sidecar is not installed")
    command = [
        sidecar, "serve", "--plans", str(PLANS), "--upstream", "http://127.0.0.1:9",
        "--listen", "127.0.0.1:0", "--control", f"127.0.0.1:{control}",
        "--decide", f"127.0.0.1:{decide}", "--decide-token-file", str(token),
        "--redis", f"redis://127.0.0.1:{redis}/0", "--spool", str(stack.directory / "spool"),
    ]  # fmt: skip
    env = {"SIDECAR_SPOOL_MAX_BYTES": str(16 << 30), "PYTHONPATH": str(tree)}
    running = stack.start("sidecar", command, core=GATEWAY_CORE, env=env)
    wait_for_http(running, f"http://127.0.0.1:{control}/readyz")
    return running, decide


def drive(running: Running, port: int, mode: str, options: argparse.Namespace) -> tuple[float, ...]:
    """Drive one mode. Returns requests per second, and µs of CPU per request.

    Raises DidNotStart if an answer was not 200.
    """
    command = [
        "taskset", "-c", str(OTHERS_CORE), "wrk", f"-c{options.connections}", "-t1",
        f"-d{options.seconds}s", "-s", str(SCRIPT),
        f"http://127.0.0.1:{port}",
    ]  # fmt: skip
    env = os.environ | {"DECIDE_MODE": mode, "DECIDE_KEY": API_KEY, "DECIDE_TOKEN": TOKEN}
    cpu = running.cpu_seconds()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=options.seconds + 30, env=env, check=False
    )
    cpu = running.cpu_seconds() - cpu
    line = next((text for text in done.stdout.splitlines() if text.startswith("RESULT ")), None)
    if line is None:
        raise DidNotStart(f"wrk gave no result: {done.stdout} {done.stderr}")
    result = json.loads(line.removeprefix("RESULT "))
    if result["bad_status"] or result["broken"]:
        raise DidNotStart(f"{mode}: {result['bad_status']} refused, {result['broken']} broken")
    return result["requests"] / (result["duration_us"] / 1e6), cpu / result["requests"] * 1e6


def main() -> int:
    """Run the measurement. Returns exit code 2 if something did not start."""
    options = arguments()
    with Stack() as stack:
        try:
            _, valkey = start_valkey(stack, core=OTHERS_CORE)
            running, port = start(stack, options.tree.resolve(), valkey)
            for mode, title in MODES.items():
                drive(running, port, mode, argparse.Namespace(**vars(options)
                      | {"seconds": WARM_UP_SECONDS}))  # fmt: skip
                samples = [drive(running, port, mode, options) for _ in range(options.rounds)]
                rate, cpu = (median(each) for each in zip(*samples, strict=True))
                print(f"{rate:8,.0f}/s  {cpu:6.1f} µs of CPU each  {title}", flush=True)
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
