"""The health check of the image, which takes the control port from SIDECAR_CONTROL."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.valkey import free_port

ROOT = Path(__file__).parents[2]


def command() -> list[str]:
    """The command in the Dockerfile, with the Python of the tests."""
    match = re.search(
        r"^HEALTHCHECK .*\\\n *CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    assert match is not None
    python, *rest = json.loads(match[1])
    assert python == "python"
    return [sys.executable, *rest]


def check(environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command(), env=environment, cwd="/", capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_serving_sidecar_is_healthy_at_any_control_address(
    spawn: Any, environment: Any, tmp_path: Path, host: str
) -> None:
    variables = {
        "SIDECAR_CONTROL": f"{host}:{free_port()}", "SIDECAR_LISTEN": "127.0.0.1:0",
        "SIDECAR_PLANS": str(ROOT / "examples" / "plans.yaml"),
        "SIDECAR_UPSTREAM": "http://127.0.0.1:1", "SIDECAR_REDIS": "redis://127.0.0.1:1/0",
        "SIDECAR_SPOOL": str(tmp_path / "spool"),
    }  # fmt: skip
    process = spawn("serve", **variables)
    while '"sidecar_serving"' not in (line := process.stderr.readline()):
        assert line, "serve ended before it served"
    assert check(environment(**variables)) == (0, "")


@pytest.fixture
def unhealthy() -> Iterator[str]:
    """The address of a control port that answers 503."""

    class Unhealthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b"worker 1: does not answer")

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Unhealthy)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_503_is_not_healthy(environment: Any, unhealthy: str) -> None:
    message = f"SIDECAR_CONTROL={unhealthy}: 503 worker 1: does not answer\n"
    assert check(environment(SIDECAR_CONTROL=unhealthy)) == (1, message)


@pytest.mark.parametrize("control", ["127.0.0.1:1", "nonsense", "127.0.0.1:x"])
def test_an_unreachable_control_port_is_not_healthy(environment: Any, control: str) -> None:
    code, message = check(environment(SIDECAR_CONTROL=control))
    assert code == 1
    assert message.startswith(f"SIDECAR_CONTROL={control}: ")
    assert "Traceback" not in message


def test_the_health_check_imports_little(environment: Any) -> None:
    command = [sys.executable, "-c", "import sys, sidecar.commands.health; print(*sys.modules)"]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=30, check=True
    )
    assert not {"pydantic", "typer", "asyncio", "sidecar.settings"} & set(done.stdout.split())
