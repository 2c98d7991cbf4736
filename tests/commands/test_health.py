"""The image's health check: it finds the control port wherever SIDECAR_CONTROL has it."""

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
    """What the Dockerfile has, with our own Python."""
    found = re.search(
        r"^HEALTHCHECK .*\\\n *CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    assert found is not None
    python, *rest = json.loads(found[1])
    assert python == "python"
    return [sys.executable, *rest]


def check(environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command(), env=environment, cwd="/", capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_sidecar_that_serves_is_healthy_at_any_control_address(
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
def sick() -> Iterator[str]:
    """The address of a control port that says that the process should be started again."""

    class Sick(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b"worker 1: does not answer")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sick)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_one_that_says_so_is_not_healthy(environment: Any, sick: str) -> None:
    told = f"SIDECAR_CONTROL={sick}: 503 worker 1: does not answer\n"
    assert check(environment(SIDECAR_CONTROL=sick)) == (1, told)


@pytest.mark.parametrize("control", ["127.0.0.1:1", "nonsense", "127.0.0.1:x"])
def test_one_that_cannot_be_asked_is_not_healthy(environment: Any, control: str) -> None:
    code, told = check(environment(SIDECAR_CONTROL=control))
    assert code == 1
    assert told.startswith(f"SIDECAR_CONTROL={control}: ")
    assert "Traceback" not in told


def test_it_is_cheap(environment: Any) -> None:
    asked = [sys.executable, "-c", "import sys, sidecar.commands.health; print(*sys.modules)"]
    done = subprocess.run(
        asked, env=environment(), capture_output=True, text=True, timeout=30, check=True
    )
    assert not {"pydantic", "typer", "asyncio", "sidecar.settings"} & set(done.stdout.split())
