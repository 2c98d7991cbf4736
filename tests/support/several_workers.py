"""`sidecar serve --workers N` in real processes, in front of a sample API."""

import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.servers import free_port

SIDECAR = Path(sys.executable).parent / "sidecar"
PLANS = """
version: 1
meters: {{requests: {{unit: request}}}}
routes: [{{id: rest, match: "/**"}}]
plans:
  free:
    features: [core]
    limits: [{{id: monthly, meter: requests, quota: 100000/month, at: {{100%: reject}}}}]
accounts: [{{id: acme, plan: free, keys: [{{id: k1, sha256: {digest}}}]}}]
"""


def plans_text() -> str:
    """A plan file with one account; its name is its API key."""
    return PLANS.format(digest=hashlib.sha256(b"acme").hexdigest())


def until(true: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Wait for other processes until `true` returns a true value, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


class Api:
    """Answers every GET with `ok`; answers to /slow wait until `released`."""

    def __init__(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/slow":
                    api.waiting.set()
                    api.released.wait(30)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.waiting, self.released = threading.Event(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Several:
    """A running `sidecar serve`."""

    directory: Path
    redis: str
    api: Api
    workers: int = 2
    flags: dict[str, object] = field(default_factory=dict)
    port: int = 0
    control: int = 0
    process: "subprocess.Popen[str]" = field(init=False)

    def __post_init__(self) -> None:
        self.port, self.control = self.port or free_port(), free_port()
        self.spool = self.directory / "spool"
        plans = self.directory / "plans" / "plans.yaml"
        plans.parent.mkdir(exist_ok=True)
        plans.write_text(plans_text())
        given = {
            "plans": plans,
            "upstream": f"http://127.0.0.1:{self.api.port}",
            "listen": f"127.0.0.1:{self.port}",
            "control": f"127.0.0.1:{self.control}",
            "redis": self.redis,
            "redis-timeout-ms": 5000,
            "spool": self.spool,
            "drain-delay-s": 0,
            "workers": self.workers,
            "drain-timeout-s": 10,
        } | self.flags
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
        self.process = subprocess.Popen(
            [SIDECAR, "serve", *(str(part) for k, v in given.items() for part in (f"--{k}", v))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kept,
        )

    def ready(self) -> "Several":
        """Wait until it is ready."""
        until(lambda: self.ask("/readyz")[0] == 200 or self._must_run(), "ready")
        return self

    def _must_run(self) -> bool:
        assert self.process.poll() is None, self.end()[1]
        return False

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body from the control port; status 0 if it does not listen."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionError:
            return 0, ""
        finally:
            connection.close()

    def call(self, path: str = "/items") -> int:
        """The status of a request on a new connection; 0 if the connection breaks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"X-Api-Key": "acme"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (ConnectionError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        total = 0.0
        for line in self.ask("/metrics")[1].splitlines():
            shown = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
            if shown and shown[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', shown[2] or ""))
                if labels.items() <= has.items():
                    total += float(shown[3])
        return total

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in task.read_text().split()]

    def events(self) -> list[dict[str, Any]]:
        """The events of all spools."""
        return [
            json.loads(line)
            for file in sorted(self.spool.rglob("*.jsonl"))
            for line in file.read_text().splitlines()
        ]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end, and return exit code, stderr and stdout."""
        out, errors = self.process.communicate(timeout=40)
        return self.process.returncode, errors, out

    def stop(self) -> tuple[int, str, str]:
        """Send SIGTERM, and wait for the end."""
        self.send(signal.SIGTERM)
        return self.end()

    def kill(self) -> None:
        """Kill it, and wait until its workers have ended."""
        pids = self.pids() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        for pid in pids:
            until(lambda pid=pid: not alive(pid), f"worker {pid} has ended")
