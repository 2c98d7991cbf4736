"""`python -m loadtests.crash`: kills a sidecar at random instants and checks that no event is lost.

Each kill is one of four kinds: on a healthy disk, with a slow fsync, on a full disk, and with the
spool directory renamed. After each restart, every request that a client saw answered has its
event, no event is there twice, and the hash chain is whole. `sidecar reconcile` explains every unit
of the counters: those without an event were in flight when the process died.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtests.processes import ENVIRONMENT, DidNotStart, Stack, free_port
from loadtests.valkey import start_valkey
from sidecar.metering.segments import list_segments
from sidecar.metering.verify import verify

KINDS: Final = ("plain", "slow fsync", "full disk", "renamed directory")
CONNECTIONS: Final = 8
SLOW_US: Final = 200_000
_START_S: Final = 60
_KEY: Final = "crash-test-key"
_ACCOUNT: Final = "crash-test"
_PLANS: Final = """version: 1
meters: {requests: {unit: request}}
routes: [{id: status, match: "GET /critical", class: critical}, {id: rest, match: "/**"}]
plans: {pro: {limits: [{id: monthly, meter: requests, quota: 1000000000/month}]}}
accounts: [{id: ACCOUNT, plan: pro, keys: [{id: k1, sha256: "SHA256"}]}]
"""
_SLOW_SOURCE: Final = """#include <unistd.h>
int fsync(int fd) { (void)fd; usleep(SLOW_US); return 0; }
int fdatasync(int fd) { (void)fd; usleep(SLOW_US); return 0; }
"""


@dataclass
class Tally:
    """What the series saw. `problems` is empty if every promise was kept."""

    kills: Counter[str] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)  # IDs of responses that clients read whole
    recovered: int = 0  # events that were only in the buffer
    in_flight: int = 0  # requests in flight at the kills
    charged: int = 0  # units of them that Redis had charged
    problems: list[str] = field(default_factory=list)


class _Clients:
    """Keep-alive connections that send one request after the other."""

    def __init__(self, port: int, answered: set[str]) -> None:
        self._port = port
        self._answered = answered
        self._tasks = [
            asyncio.create_task(self._run(path))
            for path in ("/critical", *["/items"] * (CONNECTIONS - 1))
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, path: str) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    while True:
                        await self._ask(reader, writer, path)
                finally:
                    writer.close()
            await asyncio.sleep(0.01)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
    ) -> None:
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {_KEY}\r\n\r\n"
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        if head.startswith("http/1.1 200"):
            self._answered.add(fields["x-request-id"])


async def _serve_api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + b'{"ok":true}')
            await writer.drain()
    writer.close()


class CrashSeries:
    """One sidecar, killed and restarted in the same directory."""

    def __init__(self, directory: Path, redis_port: int, seed: int) -> None:
        self.tally = Tally()
        self._directory = directory
        self._spool = directory / "spool"
        self._redis_port = redis_port
        self._random = random.Random(seed)
        self._port, self._control = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._shim = _slow_shim(directory)

    async def run(self, kills: int) -> Tally:
        """Kill the sidecar this many times, then stop it cleanly. Raises DidNotStart."""
        (self._directory / "plans.yaml").write_text(
            _PLANS.replace("SHA256", hashlib.sha256(_KEY.encode()).hexdigest()).replace(
                "ACCOUNT", _ACCOUNT
            )
        )
        api = await asyncio.start_server(_serve_api, "127.0.0.1", 0)
        upstream = api.sockets[0].getsockname()[1]
        kinds = [kind for kind in KINDS if kind != "slow fsync" or self._shim]
        try:
            for number in range(kills):
                kind = kinds[number % len(kinds)]
                await self._start(upstream, slow=kind == "slow fsync")
                await self._load_and_kill(kind)
                await self._start(upstream, slow=False)
                self._check(f"kill {number + 1} ({kind})")
                await self._reconcile(f"kill {number + 1} ({kind})")
                await self._end(signal.SIGKILL)
                self.tally.kills[kind] += 1
            await self._start(upstream, slow=False)
            await self._end(signal.SIGTERM)
            self._check("after the last stop")
        finally:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            api.close()
        return self.tally

    async def _start(self, upstream: int, *, slow: bool) -> None:
        command = [
            str(Path(sys.executable).parent / "sidecar"), "serve",
            "--plans", str(self._directory / "plans.yaml"),
            "--upstream", f"http://127.0.0.1:{upstream}",
            "--listen", f"127.0.0.1:{self._port}", "--control", f"127.0.0.1:{self._control}",
            *self._stores(), "--sinks", f"file:{self._directory / 'usage.jsonl'}",
            "--redis-timeout-ms", "2000",  # no local mode: it charges a request after its event
        ]  # fmt: skip
        shim = {"LD_PRELOAD": str(self._shim)} if slow else {}
        with (self._directory / "log").open("ab") as log:
            environment = {**os.environ, **ENVIRONMENT, **shim}
            self._process = await asyncio.to_thread(
                subprocess.Popen, command, stdout=log, stderr=log, env=environment
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                while self._process.poll() is None:
                    if await self._ready():
                        return
                    await asyncio.sleep(0.02)
        raise DidNotStart((self._directory / "log").read_text()[-2000:])

    def _stores(self) -> list[str]:
        redis = f"redis://127.0.0.1:{self._redis_port}/0"
        return ["--redis", redis, "--spool", str(self._spool)]

    async def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._control)
            writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return b" 200 " in answer[:16]
        return False

    async def _load_and_kill(self, kind: str) -> None:
        process = self._process
        assert process is not None
        before = len(self.tally.answered)
        clients = _Clients(self._port, self.tally.answered)
        for _ in range(12_000):  # a minute
            if len(self.tally.answered) >= before + 20 or process.poll() is not None:
                break
            await asyncio.sleep(0.005)
        away = self._directory / "away"
        if kind == "full disk":
            sizes = [segment.size for segment in list_segments(self._spool)]
            limit = max([4096, *sizes]) + 8192
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        elif kind == "renamed directory":
            self._spool.rename(away)
        await asyncio.sleep(self._random.uniform(0.02, 0.8))
        await self._end(signal.SIGKILL)
        await clients.stop()
        if away.exists():
            shutil.rmtree(self._spool, ignore_errors=True)
            away.rename(self._spool)

    async def _end(self, sent: signal.Signals) -> None:
        process = self._process
        assert process is not None
        process.send_signal(sent)
        code = await asyncio.to_thread(process.wait)
        if sent is signal.SIGTERM and code:
            self.tally.problems.append(f"SIGTERM ended with exit code {code}")

    def _check(self, when: str) -> None:
        tally = self.tally
        shipped = self._directory / "usage.jsonl"
        files = [segment.path for segment in list_segments(self._spool)]
        spooled = [event["id"] for file in files for event in _events(file)]
        missing = tally.answered.difference(spooled)
        if missing and shipped.exists():  # a shipped segment may be deleted
            missing.difference_update(event["id"] for event in _events(shipped))
        if missing:
            tally.problems.append(f"{when}: {len(missing)} answered requests have no event")
        if copies := len(spooled) - len(set(spooled)):
            tally.problems.append(f"{when}: {copies} events are in the spool twice")
        report = verify(self._spool)
        if not report.ok:
            tally.problems.append(f"{when}: {report.gaps[:3]} {report.breaks[:3]}")
        stops = "sidecar.spool.unclean_stop.v1"
        ended = {
            event["id"]: event["data"]
            for file in (*files, *([shipped] if shipped.exists() else []))
            for event in _events(file)
            if event["type"] == stops
        }
        tally.recovered = sum(data["recovered"] for data in ended.values())
        tally.in_flight = sum(data["in_flight"] for data in ended.values())

    async def _reconcile(self, when: str) -> None:
        """Compare the counters with the events; each unit needs an explanation."""
        shipped = self._directory / "usage.jsonl"
        command = [
            str(Path(sys.executable).parent / "sidecar"), "reconcile", "--json", "--wait", "0.2",
            "--account", _ACCOUNT,
            "--plans", str(self._directory / "plans.yaml"), *self._stores(),
            *(["--events", str(shipped)] if shipped.exists() else []),
        ]  # fmt: skip
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1):
            self.tally.problems.append(f"{when}: reconcile failed: {done.stderr.strip()}")
            return
        causes = [
            cause for counter in json.loads(done.stdout)["counters"] for cause in counter["causes"]
        ]
        units = Counter({cause["kind"]: cause["units"] for cause in causes})
        self.tally.charged = units["killed"]
        if done.returncode or set(units) - {"killed"}:
            self.tally.problems.append(f"{when}: reconcile cannot explain {dict(units)}")


def _events(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def _slow_shim(directory: Path) -> Path | None:
    """Build a library that makes each fsync slow; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = directory / "slow.c", directory / "slow.so"
    source.write_text(_SLOW_SOURCE)
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-DSLOW_US={SLOW_US}", "-o", library, source], check=True
    )
    return library


def main(given: Sequence[str] | None = None) -> int:
    """Run the series. Returns exit code 1 if an event was lost, 2 if something did not start."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="number of kills (50)")
    parser.add_argument("--seed", type=int, default=None, help="of the instants (random)")
    options = parser.parse_args(given)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    with Stack() as stack:
        try:
            _, port = start_valkey(stack)
            tally = asyncio.run(CrashSeries(stack.directory, port, seed).run(options.kills))
        except DidNotStart as error:
            print(error, file=sys.stderr)
            return 2
    kinds = ", ".join(f"{count} {kind}" for kind, count in tally.kills.items())
    print(f"seed {seed}: {kinds}; {len(tally.answered):,} requests answered")
    print(f"{tally.recovered:,} of their events were only in the buffer when a process died")
    print(
        f"{tally.in_flight:,} requests were in flight at the kills; Redis had charged "
        f"{tally.charged:,} of them"
    )
    print(
        "\n".join(tally.problems)
        or "No answered request without its event, none twice; every unit is explained."
    )
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
