"""A whole sidecar on its own loop, with the recorder as upstream, and raw clients."""

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from sidecar.serve.app import App
from sidecar.settings import Settings
from tests.support.http.recorder import Recorder
from tests.support.http.strict_http import Incomplete, Message, take_response
from tests.support.plan_files import compiled_here

T = TypeVar("T")
PATIENCE = 8.0  # timeout in seconds for a connection that sends nothing

PLANS = """
version: 1
meters: {{requests: {{unit: request}}}}
routes:
{routes}
plans:
  open:
    features: [core]
    limits: [{{id: rate, meter: requests, rate: 1000000/s, burst: 1000000}}]
anonymous: {{plan: open, per: address}}
accounts:
  - {{id: key-A, plan: open, keys: [{{id: k1, sha256: {a}}}]}}
  - {{id: key-B, plan: open, keys: [{{id: k1, sha256: {b}}}]}}
"""
EVERYTHING = ("/premium", "/**")
ONLY_KNOWN = ("/premium", "/warm", "/probe", "/marker", "/smuggled/**")
FAST = {  # short for tests of slow clients, long enough for a busy machine
    "header_timeout_s": "2",
    "body_timeout_s": "1",
    "response_timeout_s": "5",
    "drain_timeout_s": "1",
    "redis_timeout_ms": "2000",
    "max_body_bytes": "1000000",
    "half_close_timeout_s": "5",  # tests mark the end of their requests so
}


def plans_text(routes: tuple[str, ...]) -> str:
    """A plan file with limits that never refuse. A path without a route gets 404."""
    lines = [
        f'  - {{id: {"premium" if path == "/premium" else f"r{number}"}, match: "{path}"}}'
        for number, path in enumerate(routes)
    ]
    digests = {x: hashlib.sha256(f"key-{x.upper()}".encode()).hexdigest() for x in "ab"}
    return PLANS.format(routes="\n".join(lines), **digests)


class SidecarThread:
    """A running sidecar (production loop, own thread) with a strict upstream."""

    def __init__(self, directory: Path, redis: str, routes: tuple[str, ...], **flags: str) -> None:
        self.recorder = Recorder().start()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sidecar", daemon=True)
        plans = directory / "plans" / "plans.yaml"
        plans.parent.mkdir()
        plans.write_text(plans_text(routes))
        self._spool = directory / "spool"
        self._read_events = 0
        self._settings = FAST | {
            "plans": str(plans),
            "upstream": f"http://127.0.0.1:{self.recorder.port}",
            "listen": "127.0.0.1:0",
            "control": "127.0.0.1:0",
            "redis": redis,
            "spool": str(self._spool),
        } | flags  # fmt: skip

    def start(self) -> None:
        self._thread.start()
        self.app = self.run(self._start())
        self.port = self.app.data_port.port

    async def _start(self) -> App:
        app = App(Settings.load(self._settings), compile_plans=compiled_here)
        await app.start()
        return app

    def stop(self) -> None:
        """Stop all parts, also after a failed start."""
        if hasattr(self, "app"):
            self.run(self.app.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        self.recorder.stop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the sidecar's loop. Returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE * 2)

    def tick(self) -> None:
        """Wait until the sidecar has read and handled all bytes that were sent."""
        done = threading.Event()

        def step(left: int) -> None:
            if left:
                self._loop.call_soon(step, left - 1)
            else:
                done.set()

        self._loop.call_soon_threadsafe(step, 3)
        assert done.wait(PATIENCE), "the sidecar's loop hangs"

    def settle(self) -> None:
        """Wait until the sidecar and the upstream have read all bytes."""
        self.tick()
        self.recorder.settle()
        self.tick()

    async def _wait_empty(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.app.data_port.connections:
                await asyncio.sleep(0.005)

    def wait_empty(self) -> None:
        """Wait until no client connection is left. Raises TimeoutError if one leaks."""
        self.run(self._wait_empty())

    def new_events(self) -> list[dict[str, Any]]:
        """The events since the last use of this method, flushed to disk first."""
        self.run(self.app.spool.flush())
        parts = [path.read_text().splitlines() for path in sorted(self._spool.glob("*.jsonl"))]
        lines = [line for part in parts for line in part]
        fresh, self._read_events = lines[self._read_events :], len(lines)
        return [json.loads(line) for line in fresh]


class Client:
    """One raw connection to the sidecar. Received bytes stay in `received`."""

    def __init__(self, sidecar: SidecarThread) -> None:
        self._tick = sidecar.tick
        self.socket = socket.create_connection(("127.0.0.1", sidecar.port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.ended = False
        self.was_reset = False
        self.interim: list[Message] = []  # 1xx

    def send(self, *pieces: bytes) -> None:
        """Send pieces that the sidecar reads one at a time. A closed connection is ignored."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self.socket.sendall(piece)
                if len(pieces) > 1:
                    self._tick()

    def half_close(self) -> None:
        """Close the sending side."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def more(self) -> None:
        """Wait for bytes or the end. Raises AssertionError if nothing arrives."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionError:
            data = b""
            self.was_reset = True
        except TimeoutError:
            raise AssertionError(f"hangs after {self.received[-300:]!r}") from None
        self.received += data
        self.ended = not data

    def response(self, method: bytes = b"GET") -> Message | None:
        """Take the next final response, strictly parsed; None if the connection ends first."""
        while True:
            try:
                found = take_response(self.received, method, ended=self.ended)
            except Incomplete:
                if self.ended:
                    return None
                self.more()
                continue
            self.received = self.received[len(found.raw) :]
            if found.status >= 200:
                return found
            self.interim.append(found)

    def until(self, wanted: bytes) -> None:
        """Wait for these bytes."""
        while wanted not in self.received:
            assert not self.ended, f"closed before {wanted!r}: {self.received[-300:]!r}"
            self.more()

    def to_the_end(self) -> bytes:
        """All bytes until the sidecar closes."""
        while not self.ended:
            self.more()
        return self.received

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def client(sidecar: SidecarThread) -> Iterator[Client]:
    """A connection that is closed with the block."""
    connection = Client(sidecar)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def running(make: Callable[[], SidecarThread]) -> Iterator[SidecarThread]:
    """A sidecar that is stopped with the block."""
    sidecar = make()
    try:
        sidecar.start()
        yield sidecar
    finally:
        sidecar.stop()
