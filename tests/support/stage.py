"""The whole sidecar in this process: real sockets, a real Valkey, real files."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar.gate import DecisionRow
from sidecar.serve.app import App
from sidecar.settings import Settings
from tests.support.plan_files import compiled_here

PLANS = """
version: 1
meters: {{requests: {{unit: request}}}}
routes:
  - {{id: status, match: "GET /status", class: critical, cost: {{}}}}
  - {{id: login, match: "POST /login", class: critical}}
  - {{id: bulk, match: "/bulk/**", needs: [bulk]}}
  - {{id: rest, match: "/**"}}
plans:
  free:
    features: [core]
    when_store_is_down: deny
    limits:
      - {{id: monthly, meter: requests, quota: {quota}/month, at: {{50%: notice, 100%: reject}}}}
  lenient: {{extends: free, when_store_is_down: allow}}
  pro: {{extends: free, features: [core, bulk]}}
links: {{upgrade: "https://example.com/pricing"}}
accounts:
  - {{id: acme, plan: free, keys: [{{id: k1, sha256: {acme}}}]}}
  - {{id: lena, plan: lenient, keys: [{{id: k1, sha256: {lena}}}]}}
  - {{id: late, plan: free, status: suspended, keys: [{{id: k1, sha256: {late}}}]}}
"""


def plans_text(quota: int = 1000) -> str:
    """A small plan file; the keys are the accounts' names."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("acme", "lena", "late")}
    return PLANS.format(quota=quota, **digests)


@dataclass
class Upstream:
    """An upstream that records all bytes and sends `answer`."""

    received: bytearray = field(default_factory=bytearray)
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    connections: int = 0
    hold: bool = False
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.received += head
                await self._body(head, reader)
                if not self.hold:
                    writer.write(self.answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _body(self, head: bytes, reader: asyncio.StreamReader) -> None:
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            while True:
                size = await reader.readuntil(b"\r\n")
                self.received += size + await reader.readexactly(int(size, 16) + 2)
                if int(size, 16) == 0:
                    return
        elif b"content-length: " in lower:
            length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
            self.received += await reader.readexactly(length)


@dataclass
class Stage:
    """A running sidecar and its environment."""

    app: App
    upstream: Upstream
    plans: Path
    spool: Path

    async def raw(self, data: bytes, until: bytes = b"\r\n\r\n") -> bytes:
        """Send bytes on a new connection. Returns the response up to `until`, and its body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.app.data_port.port)
        try:
            writer.write(data)
            async with asyncio.timeout(10):
                head = await reader.readuntil(until)
                length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                return head + await reader.readexactly(int(length or 0))
        finally:
            writer.close()

    async def call(self, method: str, path: str, key: str | None = "acme", **fields: str) -> bytes:
        """Send a request without a body. Returns the response."""
        head = f"{method} {path} HTTP/1.1\r\nHost: api.test\r\n"
        head += f"X-Api-Key: {key}\r\n" if key else ""
        head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        return await self.raw(head.encode() + b"\r\n")

    async def events(self) -> list[dict[str, Any]]:
        """The events in the spool, flushed to disk first."""
        await self.app.spool.flush()
        lines = [p.read_text().splitlines() for p in sorted(self.spool.glob("*.jsonl"))]
        return [json.loads(line) for part in lines for line in part]


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def problem(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return json.loads(body)  # type: ignore[no-any-return]


StartStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def stage(valkey_url: str, tmp_path: Path) -> AsyncIterator[StartStage]:
    """Start sidecars: `await stage(quota=3, redis=…, any_setting=…)`. All stop with the test."""
    running: list[App] = []
    servers: list[asyncio.Server] = []

    async def start(
        *, quota: int = 1000, on_decision: Callable[[DecisionRow], None] | None = None, **flags: Any
    ) -> Stage:
        upstream = Upstream()
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
        servers.append(server)
        upstream.port = server.sockets[0].getsockname()[1]
        plans = tmp_path / "plans" / "plans.yaml"
        plans.parent.mkdir(exist_ok=True)
        plans.write_text(plans_text(quota))
        spool = tmp_path / f"spool{len(running)}"
        defaults = {
            "plans": str(plans),
            "upstream": f"http://127.0.0.1:{upstream.port}",
            "listen": "127.0.0.1:0",
            "control": "127.0.0.1:0",
            "redis": valkey_url,
            "redis_timeout_ms": "2000",
            "spool": str(spool),
            "drain_timeout_s": "1",
        }
        settings = Settings.load(defaults | flags)
        app = App(settings, on_decision=on_decision, compile_plans=compiled_here)
        await app.start()
        running.append(app)
        return Stage(app, upstream, plans, spool)

    yield start
    for app in running:
        await app.stop()
    for server in servers:
        server.close()
