"""The load run end to end: its exit code on the product and on an API that breaks guarantees."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# An import of Locust would patch this process for gevent: only check that it is installed.
pytestmark = pytest.mark.skipif(find_spec("locust") is None, reason="locust is not installed")


class RefusesEverything(BaseHTTPRequestHandler):
    """An API that answers 429 to every request, also to critical ones, without an explanation."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(429)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - the name in http.server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in http.server
        """Log nothing."""


@pytest.fixture
def refusing_api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), RefusesEverything)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT, env=os.environ | environment,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_a_run_against_the_sidecar_holds_every_guarantee() -> None:
    done = run("loadtests.run", "--scenario", "customers", "--seconds", "4", "--users", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every guarantee held." in done.stdout
    assert "BROKEN" not in done.stdout


def test_a_broken_guarantee_is_exit_code_1(tmp_path: Path) -> None:
    plans = tmp_path / "plans.yaml"
    text = (ROOT / "examples" / "plans.yaml").read_text()
    plans.write_text(text.replace("    plan: free\n", "    plan: free\n    status: suspended\n"))
    done = run(
        "loadtests.run", "--scenario", "customers", "--seconds", "2", "--users", "4",
        "--plans", str(plans),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "demo-free-key: critical GET /v1/status was answered 402" in done.stdout


def test_a_process_that_does_not_start_is_exit_code_2(tmp_path: Path) -> None:
    plans = str(tmp_path / "missing.yaml")
    done = run("loadtests.run", "--scenario", "customers", "--plans", plans)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "sidecar0 is not ready" in done.stderr
    assert "missing.yaml" in done.stderr


def test_a_run_fails_if_critical_requests_are_refused_and_refusals_explain_nothing(
    refusing_api: str,
) -> None:
    done = run(
        "locust", "--locustfile", "loadtests/locustfile.py", "--headless", "--only-summary",
        "--users", "4", "--spawn-rate", "4", "--run-time", "30s", "--host", refusing_api,
        LOAD_SECONDS="2",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "critical GET /v1/status was answered 429" in done.stdout
    assert "a 429 has no RateLimit-Policy" in done.stdout
