"""`python -m loadtests.scripts`: the cost of each Lua script in Valkey, with five limits.

The server time per run comes from Valkey's command statistics: the mean of each batch, and the
median of the batches. It fails if `reserve` costs more than its bound.
"""

import argparse
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import hiredis
import redis
from rich.console import Console
from rich.table import Table

from loadtests.processes import DidNotStart, Stack
from loadtests.valkey import start_valkey
from sidecar.core.answers import Hold
from sidecar.core.kinds import MICRO, ConcurrencyLimit, QuotaLimit, RateLimit
from sidecar.core.model import Account, Claim
from sidecar.stores.commands import Commands, hold_arguments, settlement_arguments
from sidecar.stores.scripts import load

MOST_US = 25.0  # for a reservation against five limits
BATCH = 200
ACME = Account("acme", "pro")
RATE = RateLimit("per-second", "requests", 500_000, MICRO, 1_000_000, (500_000, 1))
KEY_RATE = RateLimit("per-key", "requests", 400_000, MICRO, 1_000_000, (400_000, 1), per="key")
MONTH = QuotaLimit("monthly", "requests", 10**12, "month", 10**12, (80, 90, 100))
DAY = QuotaLimit("daily", "requests", 10**12, "day", 10**12)
TOKENS = QuotaLimit("tokens", "tokens", 10**12, "cycle", 10**12, (80, 100))
FIVE = tuple(Claim(limit, 1, False) for limit in (RATE, KEY_RATE, MONTH, DAY, TOKENS))
WITH_SLOT = (*FIVE[:4], Claim(ConcurrencyLimit("in-flight", 10**9), 1, False))


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make scripts", description=__doc__)
    parser.add_argument("--batches", type=int, default=200, help=f"of {BATCH} runs each (200)")
    options = parser.parse_args(args)
    if options.batches < 1:
        parser.error("--batches must be at least 1")
    return options


class Costs:
    """Runs scripts, and reads from the server how long they took."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._commands = Commands("qs")
        seconds, micros = client.time()
        self._now_us = int(seconds) * MICRO + int(micros)
        for name in ("reserve", "settle", "peek"):
            client.script_load(load(f"limits/{name}").text)

    def _command(
        self, name: str, claims: Sequence[Claim], more: Sequence[str | int], leases: bool
    ) -> list[bytes]:
        sent = self._commands.claims(
            load(f"limits/{name}"), ACME, "k1", claims, self._now_us, more=more, leases=leases
        )
        reader = hiredis.Reader()
        reader.feed(sent)
        return list(reader.gets())

    def batch(
        self, name: str, claims: Sequence[Claim], hold_ids: Sequence[str] = (), *, reserving: bool
    ) -> float:
        """Run one batch. Returns the mean of microseconds per run."""
        self._client.config_resetstat()
        pipe: Any = self._client.pipeline(transaction=False)
        for number in range(BATCH):
            more: Sequence[str | int] = ()
            if hold_ids:
                one = hold_ids[number]
                more = settlement_arguments(one, billed=True)
                if reserving:
                    more = hold_arguments(Hold(one, 30 * MICRO))
            pipe.execute_command(
                *self._command(name, claims, more, bool(hold_ids) or not reserving)
            )
        pipe.execute()
        stats: Any = self._client.info("commandstats")
        return float(stats["cmdstat_evalsha"]["usec_per_call"])


def measure(client: "redis.Redis", batches: int) -> dict[str, float]:
    """The median duration of each script, in µs."""
    scripts = Costs(client)
    costs: dict[str, list[float]] = {}
    for number in range(batches):
        ids = [f"019a{number:06d}{one:06d}" for one in range(BATCH)]
        for title, took in (
            ("reserve, five limits", scripts.batch("reserve", FIVE, reserving=True)),
            (
                "reserve, five limits, one a concurrency",
                scripts.batch("reserve", WITH_SLOT, ids, reserving=True),
            ),
            ("settle, five limits", scripts.batch("settle", WITH_SLOT, ids, reserving=False)),
            ("peek, five limits", scripts.batch("peek", FIVE, reserving=False)),
        ):
            costs.setdefault(title, []).append(took)
    return {title: median(values) for title, values in costs.items()}


def main() -> int:
    """Run the benchmark.

    Returns exit code 0 if `reserve` is within its bound, 1 if not, 2 without a server.
    """
    options = arguments()
    with Stack() as stack:
        try:
            _, port = start_valkey(stack)
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
        with redis.Redis(port=port) as client:
            costs = measure(client, options.batches)
    table = Table(title="Server time per run")
    table.add_column("script")
    table.add_column("µs", justify="right")
    for title, took in costs.items():
        table.add_row(title, f"{took:.1f}")
    Console().print(table)
    took = costs["reserve, five limits"]
    if took > MOST_US:
        print(f"FAILED  reserve takes {took:.1f} µs; the bound is {MOST_US} µs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; nothing is left running.")
