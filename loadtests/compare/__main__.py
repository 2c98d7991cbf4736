"""`python -m loadtests.compare`: drive each gateway in turn, and print one table."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import redis

from loadtests.compare import report
from loadtests.compare.gateways import (
    API_KEY,
    CORES,
    GATEWAYS,
    OTHERS_CORE,
    SIDECAR,
    Backends,
    Gateway,
    find,
    start_upstream,
)
from loadtests.compare.measure import LARGE_PATH, PATH, Row, load
from loadtests.processes import DidNotStart, Running, Stack, wait_for_http
from loadtests.valkey import start_valkey

HERE = Path(__file__).parent
DEBIAN_PACKAGES = ("wrk", "nginx", "libnginx-mod-http-lua", "lua-nginx-redis")
WARM_UP_SECONDS = 2
NEEDS = "The comparison needs two cores, taskset, wrk and nginx: apt-get install wrk nginx."


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is driven (3)")
    parser.add_argument(
        "--seconds", type=int, default=8, help="length of each drive, in seconds (8)"
    )
    parser.add_argument("--only", default="", help="ids, separated by commas: "
                        + ", ".join(gateway.id for gateway in GATEWAYS))  # fmt: skip
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--write-results", action="store_true", help="write RESULTS.md and .json")
    parser.add_argument("--no-install", action="store_true", help="never run apt-get")
    options = parser.parse_args(args)
    unknown = set(filter(None, options.only.split(","))) - {gateway.id for gateway in GATEWAYS}
    if unknown:
        parser.error(f"--only: unknown gateway {', '.join(sorted(unknown))}")
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    return options


def install_debian_packages() -> None:
    """Install Debian packages if this user can; gateways that lack one are skipped later."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    print("Installing", " ".join(DEBIAN_PACKAGES), "with apt-get", flush=True)
    # Runlevel 1 keeps the packages from starting their servers.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *DEBIAN_PACKAGES],
    ):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr.strip(), file=sys.stderr)
            return


def start_all(
    chosen: Sequence[Gateway], backends: Backends
) -> tuple[list[Row], dict[str, tuple[Running, int]]]:
    """Start the gateways.

    Returns a row for each, and the process and port of those that answer 200.
    """
    rows, live = [], {}
    for gateway in chosen:
        row = Row(gateway.id, gateway.title)
        rows.append(row)
        try:
            running, port = gateway.start(backends)
            wait_for_http(running, f"http://127.0.0.1:{port}{PATH}", key=API_KEY)
            live[gateway.id] = (running, port)
        except DidNotStart as error:
            row.void = str(error)
    return rows, live


def drive(
    rows: Sequence[Row],
    live: dict[str, tuple[Running, int]],
    store: "redis.Redis",
    options: argparse.Namespace,
) -> None:
    """Fill the rows, round by round, so that noise of the machine affects all alike."""
    seconds = options.seconds
    for number in range(options.rounds + 1):
        for row in rows:
            if row.void:
                continue
            running, port = live[row.id]
            if number == 0:
                load(running, port, store, connections=64, seconds=WARM_UP_SECONDS)
                continue
            full = load(running, port, store, connections=64, seconds=seconds)
            light = load(running, port, store, connections=8, seconds=max(1, seconds // 2))
            large = load(
                running, port, store, connections=8, seconds=max(1, seconds // 2), path=LARGE_PATH
            )
            row.void = full.problem or light.problem or large.problem
            row.full.append(full)
            row.light.append(light)
            row.large.append(large)
            row.rss_bytes = max(row.rss_bytes, running.rss_bytes())
            print(
                f"round {number}  {full.requests_per_s:>9,.0f}/s  {row.title}  {row.void}",
                flush=True,
            )


def main() -> int:
    """Run the comparison.

    Returns exit code 0 if every row is valid, 1 if one is void, 2 if nothing can be measured.
    """
    options = arguments()
    if not options.no_install and not (find("wrk") and not GATEWAYS[2].missing()):
        install_debian_packages()
    if not find("wrk") or not find("nginx") or not find("taskset") or len(CORES) < 2:
        print(NEEDS, file=sys.stderr)
        return 2
    wanted = set(filter(None, options.only.split(","))) or {gateway.id for gateway in GATEWAYS}
    chosen = [gateway for gateway in GATEWAYS if gateway.id in wanted]
    skipped = [f"{gateway.title}: {reason}" for gateway in chosen if (reason := gateway.missing())]
    chosen = [gateway for gateway in chosen if not gateway.missing()]
    with Stack() as stack:
        try:
            upstream = start_upstream(stack)
            _, valkey_port = start_valkey(stack, core=OTHERS_CORE)
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
        with redis.Redis(port=valkey_port) as store:
            rows, live = start_all(chosen, Backends(stack, upstream, valkey_port))
            drive(rows, live, store, options)
    report.show(rows, skipped)
    numbers = (rows, skipped, options.rounds, options.seconds)
    if options.json:
        options.json.write_text(report.as_json(*numbers))
    if options.write_results:
        (HERE / "RESULTS.md").write_text(report.markdown(*numbers))
        (HERE / "RESULTS.json").write_text(report.as_json(*numbers))
    void = any(row.void for row in rows)
    if any(row.id == SIDECAR and row.void for row in rows):
        print("No ratio: the sidecar's row is void.", file=sys.stderr)
    return 1 if void else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
