"""`python -m loadtests.run`: Valkey, a sample API, the sidecar, and Locust in front of it."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.processes import DidNotStart, Stack, free_port, wait_for_http
from loadtests.valkey import start_valkey

HERE = Path(__file__).parent
SPARE_SECONDS = 30  # for Locust to start in
PLANS = HERE.parent / "examples" / "plans.yaml"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--users", type=int, default=20, help="programs that call at once (20)")
    parser.add_argument("--seconds", type=int, default=20, help="length of the run (20)")
    parser.add_argument("--plans", type=Path, default=PLANS, help="the plan file")
    options = parser.parse_args(given)
    if options.users < 4 or options.seconds < 1:
        parser.error("--users starts at 4, one for each plan; --seconds at 1")
    return options


def start_product(stack: Stack, plans: Path) -> str:
    """Address of a sidecar in front of a sample API. Raises DidNotStart."""
    _, valkey = start_valkey(stack)
    api, listen, control = free_port(), free_port(), free_port()
    sample = stack.start("api", [sys.executable, str(HERE / "sample_api.py"), str(api)])
    wait_for_http(sample, f"http://127.0.0.1:{api}/v1/status")
    command = [
        str(Path(sys.executable).parent / "sidecar"), "serve",
        "--plans", str(plans.resolve()), "--upstream", f"http://127.0.0.1:{api}",
        "--listen", f"127.0.0.1:{listen}", "--control", f"127.0.0.1:{control}",
        "--redis", f"redis://127.0.0.1:{valkey}/0", "--spool", str(stack.directory / "spool"),
    ]  # fmt: skip
    sidecar = stack.start("sidecar", command)
    wait_for_http(sidecar, f"http://127.0.0.1:{control}/readyz")
    return f"http://127.0.0.1:{listen}"


def main() -> int:
    """Locust's exit code: 0 when every promise was kept, 1 when not; 2 when nothing came up."""
    options = arguments()
    with Stack() as stack:
        try:
            host = start_product(stack, options.plans)
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
        users = str(options.users)
        command = [
            sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"),
            "--headless", "--users", users, "--spawn-rate", users,
            "--run-time", f"{options.seconds + SPARE_SECONDS}s", "--host", host,
            "--only-summary", "--loglevel", "WARNING",
        ]  # fmt: skip
        environment = {
            "LOAD_PLANS": str(options.plans.resolve()),
            "LOAD_SECONDS": str(options.seconds),
        }
        return run_locust(command, environment, options.seconds)


def run_locust(command: Sequence[str], environment: dict[str, str], seconds: int) -> int:
    """Run Locust in the foreground from the repository's root, for a bounded time."""
    done = subprocess.run(
        command, cwd=HERE.parent, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        timeout=seconds + 2 * SPARE_SECONDS, check=False,
    )  # fmt: skip
    return done.returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
