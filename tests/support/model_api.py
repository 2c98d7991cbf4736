"""A model provider that answers as OpenAI does, and a sidecar for LiteLLM's callback."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import redis

from tests.support.proxy_stage import EVERYTHING, SidecarThread
from tests.support.vectors import PLUGINS

KEY = "sk-0f4d1c8a7be94c3d8f5b6a7c9d0e1f2a3b4c5d6e7f809102"  # at LiteLLM and at the sidecar
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


class ModelApi:
    """Answers `hello` with a usage of 7 tokens. `fail` in the request: 500; `hold`: a slow end."""

    def __init__(self) -> None:
        api = self
        self.asked = 0
        self.released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                api.asked += 1
                if "fail" in text:
                    self._send(500, b'{"error": {"message": "broken"}}', "application/json")
                elif json.loads(text).get("stream"):
                    self._stream(hold="hold" in text)
                else:
                    choice = {"message": {"role": "assistant", "content": "hello"}}
                    document = chunk(choice | {"finish_reason": "stop"}) | {
                        "object": "chat.completion", "usage": USAGE,
                    }  # fmt: skip
                    self._send(200, json.dumps(document).encode(), "application/json")

            def _stream(self, *, hold: bool) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self._event(chunk({"delta": {"role": "assistant", "content": "hel"}}))
                if hold:
                    api.released.wait(20)
                self._event(chunk({"delta": {"content": "lo"}, "finish_reason": "stop"}))
                self._event(chunk() | {"usage": USAGE})
                self.wfile.write(b"data: [DONE]\n\n")
                self.close_connection = True

            def _event(self, document: dict[str, Any]) -> None:
                self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")
                self.wfile.flush()

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

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


def chunk(choice: dict[str, Any] | None = None) -> dict[str, Any]:
    """A part of a streamed answer."""
    choices = [] if choice is None else [{"index": 0, "finish_reason": None} | choice]
    return {
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini",
        "choices": choices,
    }  # fmt: skip


@dataclass
class Deciding:
    """A sidecar with the plan file of plugins/litellm."""

    socket: Path
    sidecar: SidecarThread | None
    _events: list[dict[str, Any]] = field(default_factory=list)

    def stop(self) -> None:
        if self.sidecar is not None:
            self.sidecar.stop()
            self.sidecar = None

    def next_event(self) -> dict[str, Any]:
        """The data of the next usage event."""
        assert self.sidecar is not None
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            new = self.sidecar.new_events()
            self._events += [one for one in new if one["type"] == "api.request.v1"]
            if self._events:
                return dict(self._events.pop(0)["data"])
            time.sleep(0.02)
        raise AssertionError("no event")


@contextlib.contextmanager
def deciding(directory: Path, valkey: str) -> Iterator[Deciding]:
    """Start a sidecar on a unix socket."""
    redis.Redis.from_url(valkey).flushall()
    socket = directory / "d.sock"
    (directory / "sidecar").mkdir()
    sidecar = SidecarThread(directory / "sidecar", valkey, EVERYTHING, decide=f"unix:{socket}")
    plans = (PLUGINS / "litellm" / "plans.yaml").read_text()
    sample, used = sha256(b"secret").hexdigest(), sha256(KEY.encode()).hexdigest()
    assert sample in plans
    plans = plans.replace(sample, used)
    (directory / "sidecar" / "plans" / "plans.yaml").write_text(plans)
    sidecar.start()
    found = Deciding(socket, sidecar)
    try:
        yield found
    finally:
        found.stop()
