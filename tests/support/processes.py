"""A real `sidecar serve` process, and an API whose responses the test releases."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.servers import free_port
from tests.support.stage import plans_text

SIDECAR = Path(sys.executable).parent / "sidecar"
PATIENCE_S = 60  # timeout for another process; never a measure


class SlowApi:
    """An API that sends the first half of a response at once, the second after `release`."""

    def __init__(self) -> None:
        self.arrived = 0
        self.left = 0  # clients that left before the second half
        self.release = asyncio.Event()
        self.first, self.second = b"first-", b"second"
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = len(self.first) + len(self.second)
        self._writers.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
                writer.write(self.first)
                self.arrived += 1
                await self._wait_released(reader)
                writer.write(self.second)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _wait_released(self, reader: asyncio.StreamReader) -> None:
        """Wait for `release`. Raises ConnectionError if the other side leaves first."""
        released = asyncio.ensure_future(self.release.wait())
        closed = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([released, closed], return_when=asyncio.FIRST_COMPLETED)
            if not released.done():
                self.left += 1
                raise ConnectionResetError
        finally:
            released.cancel()
            closed.cancel()
            await asyncio.gather(released, closed, return_exceptions=True)

    async def end(self) -> None:
        """Abort open connections. Tasks are not cancelled: asyncio would report an error."""
        for writer in self._writers:
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0.01)


@pytest.fixture
async def slow_api() -> AsyncIterator[SlowApi]:
    api = SlowApi()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0, backlog=1024)
    api.port = server.sockets[0].getsockname()[1]
    yield api
    server.close()
    await api.end()


class Serving:
    """A process. `port` is the data port; `log` has the log events so far."""

    def __init__(
        self, directory: Path, flags: dict[str, object], env: Mapping[str, str] | None = None
    ) -> None:
        self._env = dict(env or {})
        self.port, self.control = free_port(), free_port()
        self.plans = directory / "plans.yaml"
        self.spool = directory / "spool"
        self._errors = directory / "stderr"
        self._flags: dict[str, object] = {
            "plans": self.plans,
            "listen": f"127.0.0.1:{self.port}",
            "control": f"127.0.0.1:{self.control}",
            "redis-timeout-ms": 2000,
            "spool": self.spool,
            "drain-delay-s": 0,
            **flags,
        }
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        if not self.plans.exists():
            self.plans.write_text(plans_text())
        parts = [f"--{name}={value}" for name, value in self._flags.items() if value is not True]
        parts += [f"--{name}" for name, value in self._flags.items() if value is True]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
        with self._errors.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                SIDECAR, "serve", *parts, stderr=errors, stdout=errors, env=clean | self._env
            )
        await until(lambda: self.process.returncode is not None or self._serves())
        assert self.process.returncode is None, self._errors.read_text()

    def _serves(self) -> bool:
        return bool(self.said("sidecar_serving"))

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log events. A line that is not JSON, such as a traceback, fails the test."""
        text = self._errors.read_text()
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        assert all(line.startswith("{") for line in lines), text
        return [json.loads(line) for line in lines]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log events with this name."""
        return [line for line in self.log if line["event"] == event]

    async def ask(self, path: str) -> tuple[int, str]:
        """The status and body of a GET to the control port."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.control}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def call(self, path: str, **fields: str) -> tuple[int, str]:
        """The status and body of a GET to the data port, by default as account acme."""
        headers = {"X-Api-Key": "acme"} | {k.replace("_", "-"): v for k, v in fields.items()}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    def events(self) -> list[dict[str, Any]]:
        """The events in the spools of all workers."""
        lines = [path.read_text().splitlines() for path in sorted(self.spool.rglob("*.jsonl"))]
        return [json.loads(line) for part in lines for line in part]

    async def end(self) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()


async def until(true: Callable[[], object]) -> None:
    """Wait until a condition about another process is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.01)


StartServing = Callable[..., Awaitable[Serving]]


@pytest.fixture
async def serving(valkey_url: str, tmp_path: Path) -> AsyncIterator[StartServing]:
    """Start processes: `await serving(upstream=…, access_log=True)`, also with `env`.

    All end with the test.
    """
    started: list[Serving] = []

    async def start(*, env: Mapping[str, str] | None = None, **given: object) -> Serving:
        named = {name.replace("_", "-"): value for name, value in given.items()}
        directory = tmp_path / f"serving{len(started)}"
        directory.mkdir()
        one = Serving(
            directory, {"redis": valkey_url, "upstream": "http://127.0.0.1:1"} | named, env
        )
        started.append(one)
        await one.start()
        return one

    yield start
    for one in started:
        await one.end()
