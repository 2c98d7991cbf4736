"""Real gateways in front of a recording API, with a sidecar that decides for them."""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import redis

from tests.support.proxy_stage import EVERYTHING, SidecarThread
from tests.support.servers import free_port
from tests.support.vectors import PLANS, VECTORS, check_refusal, named

TOKEN = "0123456789abcdef0123456789abcdef"
LARGE = b"0123456789abcdef" * 65_536  # 1 MiB


@dataclass
class Received:
    """A request as the API got it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """All values of a header field."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class RecordingApi:
    """Records requests. Answers as `answers` says of the API key, else 200 with `ok`.

    /v1/items/stream sends `first`, waits for `released`, and sends `second`.
    """

    def __init__(self) -> None:
        api = self
        self.received: list[Received] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.released = threading.Event()
        self.paused = False  # closes each connection without an answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self._body()
                if api.paused:
                    self.close_connection = True
                    return
                one = Received(self.command, self.path, list(self.headers.items()), body)
                api.received.append(one)
                if self.path.startswith("/v1/items/stream"):
                    self._stream()
                    return
                answer = api.answers.get(self.headers.get("X-Api-Key", ""), {})
                content = answer.get("body", "ok").encode()
                self.send_response(answer.get("status", 200))
                for name, value in answer.get("headers", {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _stream(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"5\r\nfirst\r\n")
                self.wfile.flush()
                api.released.wait(20)
                self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        for method in ("GET", "HEAD", "POST", "PUT"):
            setattr(Handler, f"do_{method}", Handler._answer)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def pause(self) -> None:
        """Close each connection without an answer."""
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class Answer:
    """A response of the gateway to its client."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Place:
    """What a gateway's configuration refers to: files, addresses and ports."""

    directory: Path
    api: int
    port: int
    decide_socket: Path
    decide_port: int
    token: str = TOKEN
    grpc_socket: Path | None = None
    grpc_api: int = 0


@dataclass
class Behind:
    """A running gateway with its API and its sidecar."""

    place: Place
    api: RecordingApi
    process: "subprocess.Popen[bytes]"
    sidecar: SidecarThread | None
    _events: list[dict[str, Any]] = field(default_factory=list)

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Send a request to the gateway on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.place.port, timeout=20)
        try:
            connection.request(method, path, body or None, headers or {})
            found = connection.getresponse()
            names = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, names, found.read())
        finally:
            connection.close()

    def events(self) -> list[dict[str, Any]]:
        """All usage events so far."""
        assert self.sidecar is not None
        self._events += self.sidecar.new_events()
        return [event for event in self._events if event["type"] == "api.request.v1"]

    def event_of(self, account: str) -> dict[str, Any]:
        """The last event of an account, which may come after the response."""

        def found() -> list[dict[str, Any]]:
            return [event for event in self.events() if event["subject"] == account]

        self.until(lambda: bool(found()), f"an event of {account}")
        return dict(found()[-1]["data"])

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Wait for the gateway's reports."""
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, f"missing: {what}"
            time.sleep(0.02)

    def stop_sidecar(self) -> None:
        if self.sidecar is not None:
            self.sidecar.stop()
            self.sidecar = None


def start_sidecar(directory: Path, valkey: str, place: Place) -> SidecarThread:
    """A sidecar with the plan file of the vectors, on the place's decide socket or port."""
    redis.Redis.from_url(valkey).flushall()
    directory.mkdir()
    tokens = directory / "tokens"
    tokens.write_text(place.token)
    decide = f"unix:{place.decide_socket}"
    flags = {"decide": decide}
    if place.decide_port:
        flags = {"decide": f"127.0.0.1:{place.decide_port}", "decide_token_file": str(tokens)}
    if place.grpc_socket is not None:
        flags = {"decide_grpc": f"unix:{place.grpc_socket}"}
    sidecar = SidecarThread(directory, valkey, EVERYTHING, **flags)
    (directory / "plans" / "plans.yaml").write_text(PLANS)
    sidecar.start()
    return sidecar


@contextlib.contextmanager
def behind(
    directory: Path,
    valkey: str,
    command: Callable[[Place], list[str]],
    *,
    tcp: bool = False,
    grpc: bool = False,
    grpc_api: int = 0,
) -> Iterator[Behind]:
    """Start API, sidecar and gateway. `command` writes the gateway's files and returns its command.

    `tcp`: the sidecar listens on a TCP port with a token, else on a unix socket; `grpc`: on one for
    gRPC. `grpc_api`: the port of a gRPC service next to the API.
    """
    with contextlib.ExitStack() as stack:
        api = RecordingApi()
        stack.callback(api.close)
        decide_port = free_port() if tcp else 0
        place = Place(directory, api.port, free_port(), directory / "d.sock", decide_port)
        place.grpc_api = grpc_api
        place.grpc_socket = directory / "g.sock" if grpc else None
        sidecar = start_sidecar(directory / "sidecar", valkey, place)
        one = Behind(place, api, None, sidecar)  # type: ignore[arg-type]
        stack.callback(one.stop_sidecar)
        with (directory / "gateway.log").open("wb") as log:
            process = subprocess.Popen(command(place), stdout=log, stderr=log, cwd=directory)
        stack.callback(_end, process)
        one.process = process
        _wait(one)
        yield one


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(one: Behind) -> None:
    """Wait until the gateway asks the sidecar, which knows no API key of this request."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if one.process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            if one.send("GET", "/gateway-is-up").status == 401:
                return
        time.sleep(0.05)
    raise AssertionError((one.place.directory / "gateway.log").read_text()[-2000:])


def find(*programs: str) -> str | None:
    """The first of these programs that is installed; also where PATH may not look."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/usr/local/go/bin"
    return next((found for one in programs if (found := shutil.which(one, path=path))), None)


# what is checked of every gateway


def check_vectors(one: Behind, *, settles: bool, response_fields: bool = True) -> int:
    """Replay the vectors through the gateway. Returns how many passed; raises if one fails.

    `response_fields`: the gateway can add fields to allowed responses.
    """
    passed = 0
    for vector in VECTORS:
        if vector.get("needs") == "settlement" and not settles:
            continue
        if not response_fields:
            expect = {k: v for k, v in vector["expect"].items() if k != "response_headers"}
            vector = vector | {"expect": expect}
        with named(vector):
            _check(one, vector)
        passed += 1
    return passed


def _check(one: Behind, vector: dict[str, Any]) -> None:
    request, expect = vector["request"], vector["expect"]
    headers, key = request["headers"], request["headers"].get("X-Api-Key", "")
    if "response" in vector:
        one.api.answers[key] = vector["response"]
    body = request.get("body", "").encode()

    def send() -> Answer:
        return one.send(request["method"], request["path"], headers, body)

    for _ in range(vector.get("after", 0)):
        assert send().status == 200
    reached = len(one.api.received)
    answer = send()
    if expect["decision"] == "refuse":
        assert len(one.api.received) == reached, "the request reached the API"
        if vector.get("gateway_may_refuse") and "x-request-id" not in answer.headers:
            assert 400 <= answer.status < 500
            return
        assert answer.status == expect["status"], answer
        check_refusal(expect, answer.headers, answer.body.decode())
        return
    assert answer.status == vector.get("response", {}).get("status", 200), answer
    _check_forwarded(one.api.received[reached], vector, answer)
    if "usage" in expect:
        data = one.event_of(expect["upstream_headers"]["X-Account-Id"])
        assert data["usage"] == expect["usage"]
        assert data["billable"] is expect.get("billable", True)
        assert data["status"] == vector["response"]["status"]


def _check_forwarded(got: Received, vector: dict[str, Any], answer: Answer) -> None:
    request, expect = vector["request"], vector["expect"]
    assert (got.method, got.path) == (request["method"], request["path"])
    assert got.body == request.get("body", "").encode()
    for name, value in expect["upstream_headers"].items():
        assert got.all(name) == [value], name
    assert got.all("X-Request-Id")
    for name in expect.get("response_headers", ()):
        assert answer.headers.get(name.lower()), name


def check_streaming(one: Behind) -> None:
    """Bodies pass unchanged in both directions, and a stream is not held back."""
    sent = one.send("POST", "/v1/items/1", {"X-Api-Key": "plenty"}, LARGE)
    assert sent.status == 200
    assert one.api.received[-1].body == LARGE
    one.api.answers["buyer"] = {"body": LARGE.decode()}
    assert one.send("GET", "/v1/items/1", {"X-Api-Key": "buyer"}).body == LARGE
    connection = http.client.HTTPConnection("127.0.0.1", one.place.port, timeout=20)
    one.api.released.clear()
    try:
        connection.request("GET", "/v1/items/stream", headers={"X-Api-Key": "plenty"})
        response = connection.getresponse()
        assert response.read(5) == b"first"
        one.api.released.set()
        assert response.read() == b"second"
    finally:
        connection.close()


def check_failure(one: Behind, valkey: str, *, status: int = 503, opens: bool = True) -> None:
    """Without the sidecar: closed, but open for critical paths; and it works again afterwards.

    `status`: of the closed gateway; not 503: of its own response. `opens`: whether it can be open.
    """
    one.stop_sidecar()
    reached = len(one.api.received)
    closed = one.send("GET", "/v1/items/1", {"X-Api-Key": "plenty"})
    assert closed.status == status, closed
    if status == 503:
        assert closed.headers["content-type"] == "application/problem+json"
        assert json.loads(closed.body)["status"] == 503
        assert int(closed.headers["retry-after"]) > 0
    assert len(one.api.received) == reached
    spoofed = {"X-Api-Key": "plenty", "X-Account-Id": "buyer", "X-Plan": "pro", "X-Key-Id": "k9"}
    opened = one.send("POST", "/v1/login", spoofed)
    assert opened.status == (200 if opens else status), opened
    if opens:
        got = one.api.received[-1]
        assert not any("".join(got.all(name)) for name in ("X-Account-Id", "X-Plan", "X-Key-Id"))
    one.sidecar = start_sidecar(one.place.directory / "sidecar-2", valkey, one.place)
    one._events = []
    deadline = time.monotonic() + 20
    while one.send("GET", "/v1/items/1", {"X-Api-Key": "plenty"}).status != 200:
        assert time.monotonic() < deadline, "it does not work again"
        time.sleep(0.05)
