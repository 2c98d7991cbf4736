"""`python -m loadtests.footprint`: what accounts and idle sidecars cost a Redis.

Memory is the difference in `used_memory` of a real Valkey, without the records of changes, which
sidecars remove. Idle sidecars serve no request; their cost is the server's CPU time.
"""

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import redis

from loadtests.processes import DidNotStart, Running, Stack, free_port, wait_for_port
from loadtests.scripts import KEY_RATE, MONTH, RATE
from loadtests.valkey import start_valkey
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Claim
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from sidecar.stores.commands import Commands
from sidecar.stores.scripts import load

PREFIX = "qs"
THREE = tuple(Claim(limit, 1, False) for limit in (RATE, KEY_RATE, MONTH))
PLANS = """
version: 1
meters: {requests: {unit: request}}
routes: [{id: rest, match: "/**"}]
plans: {free: {limits: [{id: monthly, meter: requests, quota: 1000/month}]}}
"""
WARM_UP = 200
SETTLE_S = 4.0  # after the start of sidecars, before their idle time is measured


class Memory(NamedTuple):
    """Bytes of Redis per account."""

    record: float  # its record, and one API key
    state: float  # the state of three limits


class Idle(NamedTuple):
    """What one idle sidecar costs a Redis."""

    connections: float
    commands_per_s: float
    cpu_ms_per_s: float


def memory(client: "redis.Redis", url: str, accounts: int) -> Memory:
    """Create accounts and use each once; the first ones also make the server load its scripts."""
    with Admin(url, PREFIX) as admin:
        warm_up = _names("warm", WARM_UP)
        _create(client, admin, warm_up)
        _reserve(client, warm_up)
        names = _names("customer", accounts)
        before = _used(client)
        _create(client, admin, names)
        recorded = _used(client)
        _reserve(client, names)
        return Memory((recorded - before) / accounts, (_used(client) - recorded) / accounts)


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}-{number:08d}" for number in range(count)]


def _create(client: "redis.Redis", admin: Admin, names: list[str]) -> None:
    for name in names:
        admin.set_account(name, plan="free", timezone="Europe/Paris")
        admin.create_key(name, random_bytes=secrets.token_bytes)
        client.delete(keys.outbox(PREFIX, name))
    client.delete(keys.outboxes(PREFIX), keys.changes(PREFIX))


def _used(client: "redis.Redis") -> int:
    info: Any = client.info("memory")
    return int(info["used_memory"])


def _reserve(client: "redis.Redis", names: list[str]) -> None:
    script, commands = load("limits/reserve"), Commands(PREFIX)
    untyped: Any = client
    client.script_load(script.text)
    seconds, micros = client.time()
    now_us = int(seconds) * MICRO + int(micros)
    for name in names:
        reader = hiredis.Reader()
        account = Account(name, "free")
        reader.feed(commands.claims(script, account, "k1", THREE, now_us, more=(), leases=False))
        untyped.execute_command(*reader.gets())


def idle(client: "redis.Redis", url: str, sidecars: int, seconds: float, *more: str) -> Idle:
    """Start sidecars that get no request, and measure for some seconds."""
    with Stack() as stack, _plans() as plans:
        for number in range(sidecars):
            _start(stack, plans, url, number, *more)
        time.sleep(SETTLE_S)
        connections = len(client.client_list(_type="normal")) - 1
        before = _work(client)
        began = time.monotonic()
        time.sleep(seconds)
        took = (time.monotonic() - began) * sidecars
        commands, cpu_s = (after - then for after, then in zip(_work(client), before, strict=True))
    return Idle(connections / sidecars, commands / took, cpu_s * 1_000 / took)


def _work(client: "redis.Redis") -> tuple[float, float]:
    """The number of commands that clients sent, and the seconds of CPU time so far."""
    stats: Any = client.info("commandstats")
    cpu: Any = client.info("cpu")
    sent = ("cmdstat_evalsha", "cmdstat_xread", "cmdstat_hmget", "cmdstat_set", "cmdstat_get")
    count = sum(stats.get(name, {"calls": 0})["calls"] for name in sent)
    return count, cpu["used_cpu_user"] + cpu["used_cpu_sys"]


@contextmanager
def _plans() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "plans.yaml"
        path.write_text(PLANS)
        yield path


def _start(stack: Stack, plans: Path, url: str, number: int, *more: str) -> Running:
    listen, control = free_port(), free_port()
    running = stack.start(
        f"sidecar{number}",
        [
            str(Path(sys.executable).parent / "sidecar"), "serve", "--plans", str(plans),
            "--upstream", "http://127.0.0.1:1", "--listen", f"127.0.0.1:{listen}",
            "--control", f"127.0.0.1:{control}", "--redis", url,
            "--spool", str(plans.parent / f"spool{number}"), *more,
        ],
    )  # fmt: skip
    wait_for_port(running, listen)
    return running


def main() -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.footprint", description=__doc__)
    parser.add_argument("--accounts", type=int, default=3_000)
    parser.add_argument("--sidecars", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    with Stack() as stack:
        try:
            _, port = start_valkey(stack)
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
        url = f"redis://127.0.0.1:{port}/0"
        with redis.Redis(port=port) as client:
            bytes_of = memory(client, url, options.accounts)
            client.flushall()
            both = {
                name: idle(client, url, options.sidecars, options.seconds, *more)
                for name, more in (("", ()), (", --jobs off", ("--jobs", "off")))
            }
    print("| what | measured |\n|---|---|")
    print(f"| account record and one API key in Redis | {bytes_of.record:.0f} bytes |")
    print(f"| state of three limits of an account | {bytes_of.state:.0f} bytes |")
    for name, cost in both.items():
        print(f"| connections of a sidecar{name} | {cost.connections:.0f} |")
        print(f"| commands of an idle sidecar{name} | {cost.commands_per_s:.1f} per second |")
        print(f"| CPU of an idle sidecar in Redis{name} | {cost.cpu_ms_per_s:.2f} ms per second |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
