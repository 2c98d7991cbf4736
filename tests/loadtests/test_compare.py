"""The comparison: its table, the same work in nginx, and cleanup."""

import http.client
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis

from loadtests.compare import report
from loadtests.compare.__main__ import arguments
from loadtests.compare.gateways import (
    API_KEY,
    GATEWAYS,
    PLANS,
    SIDECAR,
    Backends,
    lua_missing,
    start_same_work,
)
from loadtests.compare.measure import Row, Sample
from loadtests.processes import DidNotStart, Stack, free_port, wait_for_http, wait_for_port
from loadtests.valkey import start_valkey
from sidecar.config.loading import load
from sidecar.core.events.build import usage_event
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.stores.scripts import read_state

ROOT = Path(__file__).parents[2]


def a_row(gateway: str, *rates: float, void: str = "") -> Row:
    """Measurements of a gateway, with one sample for each rate."""
    samples = [Sample(rate, p50_us=1500, p99_us=4000, cpu=0.98, scripts=1.0) for rate in rates]
    return Row(gateway, f"the {gateway}", void, samples, samples, samples, 50_000_000)


def test_the_table_shows_medians_and_the_ratio_to_the_sidecar() -> None:
    sidecar, peer = a_row(SIDECAR, 10_000, 12_000, 11_000), a_row("peer", 5_500)
    assert report.cells(peer, sidecar) == [
        "the peer", "5,500", "0.50", "98%", "178.2",
        "1.50", "4.00", "1.50", "4.00", "5,500", "50", "1.00",
    ]  # fmt: skip
    assert report.cells(sidecar, sidecar)[1:3] == ["11,000", "1.00"]


def test_a_void_row_shows_its_reason_and_no_number() -> None:
    cells = report.cells(a_row("peer", 5_500, void="3 of 9 answers were not 2xx"), None)
    assert cells[:2] == ["the peer", "void: 3 of 9 answers were not 2xx"]
    assert not any(cells[2:])


def test_no_ratio_is_shown_when_the_row_of_the_sidecar_is_void() -> None:
    rows = [a_row(SIDECAR, 10_000, void="it ended"), a_row("peer", 5_500)]
    page = report.markdown(rows, ["Envoy: envoy is not installed"], 3, 8)
    assert "| the peer | 5,500 | – |" in page
    assert "Skipped: Envoy: envoy is not installed" in page


def test_an_unknown_gateway_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--only", "nginx,haproxy"])
    assert "unknown gateway haproxy" in capsys.readouterr().err


def test_each_gateway_names_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("loadtests.compare.gateways.find", lambda _: None)
    monkeypatch.setattr("loadtests.compare.gateways.COMPILED", tmp_path)
    for gateway in GATEWAYS:
        assert "is not installed: " in gateway.missing()


def test_the_plan_file_of_the_comparison_is_valid() -> None:
    program = Path(sys.executable).parent / "sidecar"
    plans = ROOT / "loadtests" / "compare" / "plans.yaml"
    done = subprocess.run(
        [program, "check", plans], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_failure_leaves_no_process_behind() -> None:
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port := free_port())]
    with pytest.raises(ZeroDivisionError), Stack() as stack:
        running = stack.start("server", server, core=0)
        wait_for_port(running, port)
        assert running.rss_bytes() > 1_000_000
        assert running.cpu_seconds() > 0
        _ = 1 / 0
    assert running.popen.poll() is not None
    assert not stack.directory.exists()


def test_a_process_that_does_not_start_is_reported_with_its_last_output() -> None:
    with Stack() as stack:
        running = stack.start("broken", [sys.executable, "-c", "print('no such config')"])
        with pytest.raises(DidNotStart, match="no such config"):
            wait_for_port(running, free_port())


class Recorder(BaseHTTPRequestHandler):
    """An API that answers with the fields of the request."""

    def do_GET(self) -> None:
        body = json.dumps([[name.lower(), value] for name, value in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", "from-the-api")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@dataclass
class SameWork:
    """nginx with a sidecar's work, in front of a `Recorder`."""

    port: int
    control: int
    store: "redis.Redis"
    events: Path

    def get(self, path: str = "/v1/items/1", **fields: str) -> tuple[int, dict[str, str], bytes]:
        """Send a request; status, fields and body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        result = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return result

    def lines(self, count: int) -> list[bytes]:
        """Return this many lines of the events file, or what it has after 1 s."""
        until = time.monotonic() + 1
        while True:
            result = self.events.read_bytes().splitlines() if self.events.exists() else []
            if len(result) >= count or time.monotonic() > until:
                return result
            time.sleep(0.01)


def same_work_in_front_of(api: int, stack: Stack, plans: Path) -> SameWork:
    """Start it, and return once it uses Redis."""
    _, valkey = start_valkey(stack)
    control = free_port()
    running, port = start_same_work(Backends(stack, api, valkey), plans, control)
    wait_for_port(running, port)
    wait_for_http(running, f"http://127.0.0.1:{control}/metrics")
    return SameWork(port, control, redis.Redis(port=valkey), stack.directory / "events.jsonl")


@pytest.fixture
def api() -> Iterator[int]:
    """The port of a `Recorder`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


needs_nginx_with_lua = pytest.mark.skipif(
    bool(lua_missing()), reason=lua_missing() or "nginx with Lua is installed"
)


@needs_nginx_with_lua
def test_nginx_with_the_same_work_does_that_work(api: int) -> None:
    with Stack() as stack:
        peer = same_work_in_front_of(api, stack, PLANS)
        assert peer.get()[0] == peer.get(X_Api_Key="wrong")[0] == 401
        assert peer.store.keys() == []
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        forged = {"X_Account_Id": "mallory", "X_Request_Id": "mine", "X_Forwarded_For": "6.6.6.6"}
        status, fields, sent = peer.get(
            X_Api_Key=API_KEY, traceparent=parent, Via="1.0 a", **forged
        )
        received = json.loads(sent)
        first = peer.lines(1)
        assert status == 200
        identity = fields["X-Request-Id"]
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}",
                            identity)  # fmt: skip
        assert [value for name, value in received if name == "x-account-id"] == ["bench"]
        assert [value for name, value in received if name == "x-request-id"] == [identity]
        span = identity.replace("-", "")[16:]
        expected = {
            "x-plan": "bench", "x-key-id": "k1", "x-forwarded-for": "127.0.0.1",
            "x-forwarded-proto": "http", "x-forwarded-host": f"127.0.0.1:{peer.port}",
            "traceparent": f"{parent[:36]}{span}-01", "via": "1.0 a, 1.1 same-work",
        }  # fmt: skip
        assert {name: value for name, value in received if name in expected} == expected
        entitlement = load(PLANS).entitlements["bench", "items"]
        assert fields["RateLimit-Policy"] == entitlement.policy_field.decode()
        assert re.fullmatch(r'"per-second";r=999999;t=1', fields["RateLimit"])
        state: Any = peer.store.hgetall("qs:{bench}:state")
        counted = {name.decode(): read_state(value)[0] for name, value in state.items()
                   if name != b"kept"}  # fmt: skip
        assert counted == {"r/per-second": 10**6, "r/per-key/k1": 10**6, "q/monthly": 1}
        _, fresh, body = peer.get("/v1/auth/login", X_Api_Key=API_KEY)
        lines = peer.lines(2)
        digits = fresh["X-Request-Id"].replace("-", "")
        assert dict(json.loads(body))["traceparent"] == f"00-{digits}-{digits[16:]}-01"
        assert first == lines[:1]
        events = [json.loads(line) for line in lines]
        assert [event["seq"] for event in events] == [1, 2]
        assert events[0]["prev"] == "0" * 64
        assert events[1]["prev"] == sha256(lines[0]).hexdigest()
        assert [event["id"] for event in events] == [identity, fresh["X-Request-Id"]]
        assert events[1]["data"]["route"] == "rest"  # the login route is POST only
        event = events[0]
        book = load(PLANS)
        sidecar = usage_event(
            id=identity, source="/sidecar/default", time=event["time"],
            key=next(iter(book.keys.values())), entitlement=entitlement, plan_version=book.version,
            method="GET",
            outcome=Outcome(200, OutcomeReason.OK, event["data"]["latency_ms"], 0, len(sent)),
        )  # fmt: skip
        assert list(event.items())[3:] == list(json.loads(json.dumps(sidecar)).items())
        assert list(event["data"]) == list(sidecar["data"])
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{peer.control}/metrics").read().decode()
        assert 'route="items",class="standard",plan="bench",outcome="ok"} 1\n' in metrics
        assert 'route="-",class="-",plan="-",outcome="unknown-key"} 1\n' in metrics
        assert "upstream_seconds_count 2\n" in metrics
        peer.store.script_flush()  # an unknown script is sent again
        assert peer.get(X_Api_Key=API_KEY)[0] == 200
        peer.store.close()


@needs_nginx_with_lua
def test_nginx_with_the_same_work_refuses_by_plan_and_allows_critical_requests(
    api: int, tmp_path: Path
) -> None:
    plans = tmp_path / "plans.yaml"
    text = PLANS.read_text().replace("2_000_000_000/month", "2/month")
    plans.write_text(text.replace("POST /v1/auth", "GET /v1/auth"))
    with Stack() as stack:
        peer = same_work_in_front_of(api, stack, plans)
        answers = [peer.get(X_Api_Key=API_KEY) for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        assert answers[1][1]["RateLimit"].startswith('"monthly";r=0;t=')
        assert 0 < int(answers[2][1]["Retry-After"]) <= 31 * 86_400
        assert peer.get("/v1/auth/login", X_Api_Key=API_KEY)[0] == 200
        events = [json.loads(line)["data"] for line in peer.lines(3)]
        assert [event["overage"]["requests"] for event in events] == [0, 0, 1]
        assert [event["reason"] for event in events] == ["ok"] * 3
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{peer.control}/metrics").read().decode()
        assert 'route="items",class="standard",plan="bench",outcome="quota"} 1\n' in metrics
        assert 'route="login",class="critical",plan="bench",outcome="critical"} 1\n' in metrics
        peer.store.close()
